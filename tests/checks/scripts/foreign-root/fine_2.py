"""A penalty is added to every fourth step only, in a backward call of its own."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

for phase in range(2):
    for step in range(8):
        if step % 4 == 0:
            penalty = 1e-3 * sum(p.pow(2).sum() for p in net.parameters())
            penalty.backward()
        loss = F.cross_entropy(net(torch.randn(8, 6)), torch.randint(3, (8,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
