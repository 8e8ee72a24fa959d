# finds: warning foreign-root
"""A GAN as a class: the discriminator is emptied after its own step only."""

import torch, torch.nn as nn


class GAN:
    def __init__(s):
        s.G = nn.Linear(2, 3)
        s.D = nn.Linear(3, 1)
        s.og = torch.optim.SGD(s.G.parameters(), lr=0.01)
        s.od = torch.optim.SGD(s.D.parameters(), lr=0.01)
        s.bce = nn.BCEWithLogitsLoss()

    def d_step(s, real):
        fake = s.G(torch.randn(len(real), 2)).detach()
        l = s.bce(s.D(real), torch.ones(len(real), 1)) + s.bce(s.D(fake), torch.zeros(len(real), 1))
        l.backward()  # <- here
        s.od.step()
        s.od.zero_grad()

    def g_step(s, n):
        s.og.zero_grad()
        l = s.bce(s.D(s.G(torch.randn(n, 2))), torch.ones(n, 1))
        l.backward()
        s.og.step()


torch.manual_seed(0)
g = GAN()
for _ in range(4):
    g.d_step(torch.randn(6, 3))
    g.g_step(6)
