"""A frozen branch, which the optimizer was given with all the rest."""

import torch
from torch import nn

torch.manual_seed(0)
frozen, head = nn.Linear(6, 8), nn.Linear(8, 1)
frozen.requires_grad_(False)
optimizer = torch.optim.SGD([*frozen.parameters(), *head.parameters()], lr=0.1)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(head(frozen(x).relu()), y).backward()
    optimizer.step()
