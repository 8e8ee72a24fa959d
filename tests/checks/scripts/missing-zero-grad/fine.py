"""Accumulated over two calls on purpose, then emptied."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.MSELoss()

for number in range(6):
    x = torch.randn(16, 4)
    loss = criterion(model(x), x.sum(dim=1, keepdim=True))
    (loss / 2).backward()
    if number % 2:
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad.zero_()
