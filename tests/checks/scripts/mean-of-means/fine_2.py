# notes: mean-of-means
"""Equal micro-batches; only the last batch of the epoch is shorter (`drop_last=False`)."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(62, 5), torch.randint(3, (62,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for number, (x, y) in enumerate(loader, start=1):
    (criterion(model(x), y) / 2).backward()
    if number % 2 == 0:
        optimizer.step()
        optimizer.zero_grad()
