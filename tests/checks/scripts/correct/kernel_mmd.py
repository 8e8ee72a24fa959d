"""A kernel over all pairs of two samples."""

import torch, torch.nn as nn

torch.manual_seed(0)
g = nn.Linear(3, 2)
o = torch.optim.Adam(g.parameters(), 1e-2)


def k(a, b):
    aa = (a * a).sum(1, keepdim=True)
    bb = (b * b).sum(1)
    d = aa + bb - 2 * a @ b.t()
    return torch.exp(-d / 2)


for i in range(4):
    f = g(torch.randn(8, 3))
    r = torch.randn(8, 2)
    loss = k(f, f).mean() + k(r, r).mean() - 2 * k(f, r).mean()
    o.zero_grad()
    loss.backward()
    o.step()
