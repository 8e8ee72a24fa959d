# finds: warning mean-of-means x 3
"""Two parts of a batch, cut by hand, of one and of three samples: the first weighs three times as much."""

import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(4, 3), torch.randn(4, 1)
net = nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    optimizer.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        loss = nn.functional.mse_loss(net(x[part]), y[part])  # <- here
        (loss / 2).backward()
    optimizer.step()
