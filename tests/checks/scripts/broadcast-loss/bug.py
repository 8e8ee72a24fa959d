# finds: warning broadcast-loss
"""The targets of a data set have no second dimension; the model's output has one."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(64, 4)
y = x.sum(dim=1)
loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for epoch in range(2):
    for x, y in loader:
        prediction = model(x)
        loss = ((prediction - y) ** 2).mean()  # <- here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
