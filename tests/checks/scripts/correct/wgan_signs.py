"""WGAN-GP as it was first written: three backward calls with signs, the critic frozen in between."""

import torch, torch.nn as nn

torch.manual_seed(0)


class Crit(nn.Module):
    def __init__(s):
        super().__init__()
        s.n = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(s, x):
        return s.n(x).view(-1)


G = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
D = Crit()
oG = torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.5, 0.9))
oD = torch.optim.Adam(D.parameters(), lr=1e-4, betas=(0.5, 0.9))
one = torch.tensor(1.0)
mone = -one
for it in range(3):
    for p in D.parameters():
        p.requires_grad = True
    for k in range(2):
        D.zero_grad()
        real = torch.randn(8, 3)
        D(real).mean().backward(mone)
        with torch.no_grad():
            fake = G(torch.randn(8, 2))
        D(fake).mean().backward(one)
        al = torch.rand(8, 1)
        inter = (al * real + (1 - al) * fake).requires_grad_(True)
        g = torch.autograd.grad(
            D(inter), inter, torch.ones(8), create_graph=True, retain_graph=True
        )[0]
        gp = ((g.norm(2, dim=1) - 1) ** 2).mean() * 10
        gp.backward()
        oD.step()
    for p in D.parameters():
        p.requires_grad = False
    G.zero_grad()
    D(G(torch.randn(8, 2))).mean().backward(mone)
    oG.step()
