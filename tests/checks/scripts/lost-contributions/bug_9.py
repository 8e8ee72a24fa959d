# finds: warning lost-contributions
"""Accumulation, undivided, and emptied in each turn: three of four batches are lost."""

import torch, torch.nn as nn

torch.manual_seed(0)
net = nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
ACC = 4
for i in range(12):
    opt.zero_grad()  # <- here
    nn.functional.cross_entropy(net(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
    if (i + 1) % ACC == 0:
        opt.step()
