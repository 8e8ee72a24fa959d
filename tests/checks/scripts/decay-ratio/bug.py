# finds: note decay-ratio x 1/8
# notes: sum-reduction
"""A summed loss with weight decay, which is not summed."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=5e-4)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y, reduction="sum").backward()
    optimizer.step()  # <- here
