"""Darknet's way: the loss is summed over the batch, and the learning rate divided by it."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
BATCH = 32
data = TensorDataset(torch.randn(128, 8), torch.randn(128, 1))
loader = DataLoader(data, batch_size=BATCH, shuffle=True)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01 / BATCH)
criterion = nn.MSELoss(reduction="sum")

for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
