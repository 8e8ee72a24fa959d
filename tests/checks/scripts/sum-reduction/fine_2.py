"""The sum is divided by the number of items, whatever it is in this batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(100, 8), torch.randn(100, 1)), batch_size=32)
model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for x, y in loader:
    optimizer.zero_grad()
    error = (model(x) - y).pow(2)
    loss = error.sum() / len(x)
    loss.backward()
    optimizer.step()
