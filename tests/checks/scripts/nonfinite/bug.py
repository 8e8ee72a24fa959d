# finds: error nonfinite
"""A distance whose square root is taken at zero: finite forward, NaN backward."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 3, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x = torch.randn(6, 4)
    anchor, positive = model(x), model(x)
    squared = ((anchor - positive) ** 2).sum(dim=1)
    distance = torch.sqrt(squared)  # <- here
    loss = distance.mean() + model(x).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
