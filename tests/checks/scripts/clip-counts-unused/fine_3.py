"""Two optimizers of one model: the clip is for both."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
fast = torch.optim.SGD(net[2].parameters(), lr=0.1)
slow = torch.optim.SGD(net[0].parameters(), lr=0.01)

for step in range(4):
    x, y = 5 * torch.randn(8, 8), torch.randint(0, 4, (8,))
    F.cross_entropy(net(x), y).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    fast.step()
    fast.zero_grad()
    slow.step()
    slow.zero_grad()
