# finds: error missing-zero-grad
"""The line that everybody forgets once."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.MSELoss()

for step in range(5):
    x = torch.randn(16, 4)
    loss = criterion(model(x), x.sum(dim=1, keepdim=True))
    loss.backward()
    optimizer.step()  # <- here
