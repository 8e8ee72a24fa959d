# finds: note weighted-mean
"""Rare classes weigh more; in each batch the weights are divided by their own sum."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 10.0]))

for step in range(4):
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    loss = criterion(model(x), y)  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
