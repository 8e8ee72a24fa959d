"""Twelve layers with weights as torch makes them, and a norm after each."""

import torch
from torch import nn

torch.manual_seed(0)
layers = [module for _ in range(12) for module in (nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(8, 16), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
