# finds: warning short-window x 1/2
"""Ten batches, four to a step: the last step of the epoch has two, still divided by four."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
K = 4
loader = DataLoader(TensorDataset(torch.randn(80, 5), torch.randint(3, (80,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for epoch in range(2):
    for number, (x, y) in enumerate(loader, start=1):
        loss = criterion(model(x), y) / K  # <- here
        loss.backward()
        if number % K == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
