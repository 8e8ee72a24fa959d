"""An auxiliary loss is divided as the main one is."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, main, side = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)
net = nn.ModuleList([trunk, main, side])
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

for step in range(2):
    optimizer.zero_grad()
    for micro in range(4):
        x, y = torch.randn(8, 8), torch.randint(0, 4, (8,))
        hidden = trunk(x).relu()
        loss = F.cross_entropy(main(hidden), y) / 4
        loss = loss + 0.3 * F.cross_entropy(side(hidden), y) / 4
        loss.backward()
    optimizer.step()
