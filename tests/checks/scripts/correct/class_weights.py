# notes: weighted-mean
"""Class weights in the loss of torch."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 0.3, 0.5]))

for step in range(3):
    x, y = torch.randn(12, 6), torch.randint(3, (12,))
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
