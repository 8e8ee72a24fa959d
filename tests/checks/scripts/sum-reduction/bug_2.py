# finds: note sum-reduction x 8
"""The loss is multiplied by the batch, for a running total; and then sent backward."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
running = 0.0

for step in range(3):
    x, y = torch.randn(8, 8), torch.randint(0, 4, (8,))
    loss = F.cross_entropy(net(x), y) * x.size(0)  # <- here
    running += loss.item()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
