# notes: mean-of-means
"""Tasks of different sizes, of which each counts as much as another."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
tasks = [(torch.randn(n, 6), torch.randn(n, 1)) for n in (4, 8, 6)]

for step in range(3):
    optimizer.zero_grad()
    for x, y in tasks:
        loss = nn.functional.mse_loss(net(x), y)
        (loss / len(tasks)).backward()
    optimizer.step()
