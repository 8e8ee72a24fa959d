# finds: warning accumulation-not-divided x 4
# notes: weighted-mean
"""Means that are weighted by class, of four micro-batches, are added."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
weight = torch.tensor([0.2, 1.0, 5.0])

for step in range(2):
    optimizer.zero_grad()
    for micro in range(4):
        x, y = torch.randn(8, 8), torch.randint(0, 3, (8,))
        loss = F.cross_entropy(net(x), y, weight=weight)
        loss.backward()  # <- here
    optimizer.step()
