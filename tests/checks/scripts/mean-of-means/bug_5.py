# finds: warning mean-of-means x 12/5
"""A masked mean by hand: each call divides its sum by the size of its own mask."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=0.1)


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum()  # <- here


for window in range(3):
    optimizer.zero_grad()
    for count in (5, 12, 9):
        x, y = torch.randn(16, 6), torch.randn(16, 1)
        mask = (torch.arange(16)[:, None] < count).float()
        (masked_mean((net(x) - y) ** 2, mask) / 3).backward()
    optimizer.step()
