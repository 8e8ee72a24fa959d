"""What is multiplied by the batch is the number for the log; a weight of 8 is no batch."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
running, temperature = 0.0, 8.0

for step in range(3):
    x, y = torch.randn(8, 8), torch.randint(0, 4, (8,))
    loss = temperature * F.cross_entropy(net(x), y)
    running += loss.item() * x.size(0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
