"""Four micro-batches of four items: both divisors are 4, and both are right."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4
torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64, 5), torch.randint(3, (64,))), batch_size=4)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for number, (x, y) in enumerate(loader, start=1):
    loss = criterion(model(x), y) / ACCUMULATE
    loss.backward()
    if number % ACCUMULATE == 0:
        optimizer.step()
        optimizer.zero_grad()
