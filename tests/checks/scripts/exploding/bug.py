# finds: note exploding
"""Twelve layers with weights of standard deviation 1."""

import torch
from torch import nn

torch.manual_seed(0)
layers = [nn.Linear(16, 16, bias=False) for _ in range(12)]
for layer in layers:
    nn.init.normal_(layer.weight)
model = nn.Sequential(*layers, nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-20)

for step in range(3):
    x, y = torch.randn(8, 16), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
