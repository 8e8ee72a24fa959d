"""Ten batches, four to a step; the last window is divided by the calls that it has."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
K = 4
loader = DataLoader(TensorDataset(torch.randn(80, 5), torch.randint(3, (80,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
rest = len(loader) % K

for epoch in range(2):
    for number, (x, y) in enumerate(loader, start=1):
        calls = rest if number > len(loader) - rest else K
        loss = criterion(model(x), y) / calls
        loss.backward()
        if number % K == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
