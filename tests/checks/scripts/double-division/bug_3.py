# finds: warning double-division x 1/64
"""The learning rate is divided by the batch, as for a sum, and the loss is a mean."""

import torch
from torch import nn

torch.manual_seed(0)
BATCH = 64
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.001 / BATCH, momentum=0.9)

for step in range(4):
    x, y = torch.randn(BATCH, 5), torch.randn(BATCH, 3)
    optimizer.zero_grad()
    loss = ((net(x) - y) ** 2).sum(dim=1)
    loss = loss.sum() / BATCH  # <- here
    loss.backward()
    optimizer.step()
