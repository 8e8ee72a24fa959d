# notes: hook-scales
"""A second hook, from another line and of another factor, is added on purpose half-way."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.weight.register_hook(lambda gradient: 0.5 * gradient)

for step in range(6):
    if step == 3:
        model.weight.register_hook(lambda gradient: 0.1 * gradient)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(torch.randn(8, 6)), torch.randn(8, 1)).backward()
    optimizer.step()
