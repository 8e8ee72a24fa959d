"""Two heads on one trunk, whose graph is retained for the second."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, left, right = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 3)
optimizer = torch.optim.SGD([p for m in (trunk, left, right) for p in m.parameters()], lr=0.1)

for step in range(3):
    x, y, kind = torch.randn(8, 4), torch.randn(8, 1), torch.randint(3, (8,))
    optimizer.zero_grad()
    features = trunk(x).tanh()
    F.mse_loss(left(features), y).backward(retain_graph=True)
    F.cross_entropy(right(features), kind).backward()
    optimizer.step()
