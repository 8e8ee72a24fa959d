# finds: note adam-hides-factor
# notes: sum-reduction
"""A summed loss under Adam."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y, reduction="sum").backward()
    optimizer.step()  # <- here
