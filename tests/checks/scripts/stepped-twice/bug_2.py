# finds: warning stepped-twice x 2
"""The head is in both optimizers."""

import torch
from torch import nn

torch.manual_seed(0)
backbone, head = nn.Linear(6, 8), nn.Linear(8, 1)
first = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.01)
second = torch.optim.Adam(head.parameters(), lr=1e-3)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    first.zero_grad()
    second.zero_grad()
    nn.functional.mse_loss(head(backbone(x)), y).backward()
    first.step()
    second.step()  # <- here
