"""Activation checkpointing, of both kinds."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
first, second, head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
parameters = [p for m in (first, second, head) for p in m.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.1)

for step in range(3):
    x, y = torch.randn(10, 6, requires_grad=True), torch.randint(3, (10,))
    hidden = checkpoint(lambda t: first(t).relu(), x, use_reentrant=True)
    hidden = checkpoint(lambda t: second(t).relu(), hidden, use_reentrant=False)
    loss = F.cross_entropy(head(hidden), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
