# finds: warning accumulation-not-divided x 4
"""Accumulation over four batches of a loader, undivided: the bug of `subdivisions`."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(96, 5), torch.randint(3, (96,))), batch_size=8)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
gradient_accumulations = 4

for batch_i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    loss.backward()  # <- here
    if (batch_i + 1) % gradient_accumulations == 0:
        optimizer.step()
        optimizer.zero_grad()
