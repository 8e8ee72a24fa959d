# finds: warning lost-contributions
"""Two losses with forward passes of their own; a helper empties the buffers each time."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)


for step in range(4):
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    supervised = F.cross_entropy(net(x), y)
    supervised.backward()

    net.zero_grad()  # <- here
    u = torch.randn(16, 6)
    consistency = F.mse_loss(net(u), net(u + 0.1 * torch.randn_like(u)).detach())
    consistency.backward()

    optimizer.step()
    optimizer.zero_grad()
