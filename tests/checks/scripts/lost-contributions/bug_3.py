# finds: warning lost-contributions
"""The buffers are emptied between the backward call and the step: nothing is ever learnt."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(4):
    loss = F.cross_entropy(net(torch.randn(4, 6)), torch.randint(0, 3, (4,)))
    loss.backward()
    optimizer.zero_grad()  # <- here
    optimizer.step()
