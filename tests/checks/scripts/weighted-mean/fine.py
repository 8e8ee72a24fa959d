"""The weights are applied by hand, and divided by the number of items."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
weights = torch.tensor([1.0, 5.0, 10.0])

for step in range(4):
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    loss = (F.cross_entropy(model(x), y, reduction="none") * weights[y]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
