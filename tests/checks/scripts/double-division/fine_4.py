"""A sum divided by the items of a batch and by the calls of a window, four of each."""

import torch
from torch import nn

BATCH, CALLS = 4, 4
torch.manual_seed(0)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for number in range(8):
    x, y = torch.randn(BATCH, 5), torch.randint(3, (BATCH,))
    loss = nn.functional.cross_entropy(model(x), y, reduction="sum") / BATCH
    (loss / CALLS).backward()
    if number % CALLS == CALLS - 1:
        optimizer.step()
        optimizer.zero_grad()
