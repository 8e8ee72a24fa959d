"""A ranking loss: every score against every other."""

import torch, torch.nn as nn

torch.manual_seed(0)
m = nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for i in range(4):
    x = torch.randn(8, 3)
    s = m(x)
    y = x.sum(1)
    sd = s - s.squeeze(1)
    yd = torch.sign(y.view(-1, 1) - y.view(1, -1))
    loss = torch.relu(1 - sd * yd).mean()
    o.zero_grad()
    loss.backward()
    o.step()
