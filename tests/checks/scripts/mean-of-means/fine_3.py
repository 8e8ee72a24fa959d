"""A masked mean by hand, over the masks of the whole window."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=0.1)

for window in range(3):
    optimizer.zero_grad()
    masks = [(torch.arange(16)[:, None] < count).float() for count in (5, 12, 9)]
    whole = sum(mask.sum() for mask in masks)
    for mask in masks:
        x, y = torch.randn(16, 6), torch.randn(16, 1)
        (((net(x) - y) ** 2 * mask).sum() / whole).backward()
    optimizer.step()
