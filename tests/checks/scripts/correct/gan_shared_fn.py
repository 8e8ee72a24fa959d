"""A GAN with one function for both updates."""

import torch, torch.nn as nn

torch.manual_seed(0)


def update(opt, loss):
    opt.zero_grad()
    loss.backward()
    opt.step()


G = nn.Linear(2, 3)
D = nn.Linear(3, 1)
og = torch.optim.Adam(G.parameters())
od = torch.optim.Adam(D.parameters())
for i in range(5):
    r = torch.randn(6, 3)
    f = G(torch.randn(6, 2))
    update(od, nn.functional.softplus(D(f.detach())).mean() + nn.functional.softplus(-D(r)).mean())
    update(og, nn.functional.softplus(-D(f)).mean())
