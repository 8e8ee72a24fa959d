# finds: warning foreign-root
"""Both backward calls, then both steps: the discriminator also learns to be fooled."""

import torch
from torch import nn

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
D = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
og = torch.optim.Adam(G.parameters(), 1e-3)
od = torch.optim.Adam(D.parameters(), 1e-3)
bce = nn.BCEWithLogitsLoss()
for i in range(4):
    real, fake = torch.randn(8, 3), G(torch.randn(8, 2))
    og.zero_grad()
    od.zero_grad()
    d_loss = bce(D(real), torch.ones(8, 1)) + bce(D(fake.detach()), torch.zeros(8, 1))
    d_loss.backward()
    g_loss = bce(D(fake), torch.ones(8, 1))
    g_loss.backward()  # <- here
    og.step()
    od.step()
