"""Four samples of two numbers: their mean is divided by the four calls of a window."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(5, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    optimizer.zero_grad()
    for part in range(4):
        loss = nn.functional.mse_loss(model(torch.randn(4, 5)), torch.randn(4, 2)) / 4
        loss.backward()
    optimizer.step()
