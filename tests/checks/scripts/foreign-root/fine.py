"""Two losses in every window of one optimizer, and two optimizers that share one loss."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, left, right = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)
sparse = torch.optim.SGD(trunk.parameters(), lr=0.1)
dense = torch.optim.Adam([*left.parameters(), *right.parameters()], lr=1e-3)

for step in range(4):
    x, y, z = torch.randn(8, 4), torch.randn(8, 1), torch.randn(8, 1)
    features = trunk(x).relu()
    sparse.zero_grad()
    dense.zero_grad()
    F.mse_loss(left(features), y).backward(retain_graph=True)
    F.l1_loss(right(features), z).backward()
    sparse.step()
    dense.step()
