"""StyleGAN: the gradient penalty has a step of its own, every fourth time."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
D = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1))
G = nn.Linear(2, 3)
od, og = (
    torch.optim.Adam(D.parameters(), 1e-3, betas=(0.0, 0.99)),
    torch.optim.Adam(G.parameters(), 1e-3, betas=(0.0, 0.99)),
)


def rq(m, f):
    for p in m.parameters():
        p.requires_grad_(f)


for i in range(8):
    rq(D, True)
    rq(G, False)
    real = torch.randn(8, 3)
    fake = G(torch.randn(8, 2))
    dl = F.softplus(D(fake)).mean() + F.softplus(-D(real)).mean()
    D.zero_grad()
    dl.backward()
    od.step()
    if i % 4 == 0:
        real.requires_grad = True
        (g,) = torch.autograd.grad(D(real).sum(), real, create_graph=True)
        D.zero_grad()
        (10 / 2 * g.pow(2).sum(1).mean() * 4).backward()
        od.step()
    rq(D, False)
    rq(G, True)
    gl = F.softplus(-D(G(torch.randn(8, 2)))).mean()
    G.zero_grad()
    gl.backward()
    og.step()
