"""Attacks on the inputs fill the weights' gradients, which are emptied."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
m = nn.Linear(4, 3)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for i in range(4):
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    d = torch.zeros_like(x, requires_grad=True)
    for _ in range(3):
        F.cross_entropy(m(x + d), y).backward()
        with torch.no_grad():
            d += 0.01 * d.grad.sign()
            d.grad.zero_()
    o.zero_grad()
    F.cross_entropy(m(x + d.detach()), y).backward()
    o.step()
