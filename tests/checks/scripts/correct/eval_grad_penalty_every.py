"""A lazy penalty with a step of its own."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
D = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1))
o = torch.optim.Adam(D.parameters())
for i in range(6):
    r, f = torch.randn(6, 3), torch.randn(6, 3)
    loss = F.softplus(D(f)).mean() + F.softplus(-D(r)).mean()
    D.zero_grad()
    loss.backward()
    o.step()
    if i % 2 == 0:
        r.requires_grad = True
        pred = D(r)
        (g,) = torch.autograd.grad(pred.sum(), r, create_graph=True)
        r1 = g.pow(2).reshape(6, -1).sum(1).mean()
        D.zero_grad()
        (10 / 2 * r1 * 2 + 0 * pred[0]).sum().backward()
        o.step()
