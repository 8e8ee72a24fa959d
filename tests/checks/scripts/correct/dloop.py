# notes: accumulation-not-divided, adam-hides-factor
"""A discriminator trained on real and fake in a loop of two."""

import torch, torch.nn as nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
D = nn.Linear(3, 1)
G = nn.Linear(2, 3)
od = torch.optim.Adam(D.parameters())
og = torch.optim.Adam(G.parameters())
bce = nn.BCEWithLogitsLoss()
for real in DataLoader(torch.randn(40, 3), batch_size=8):
    fake = G(torch.randn(8, 2))
    od.zero_grad()
    for x, l in ((real, 1.0), (fake.detach(), 0.0)):
        bce(D(x), torch.full((8, 1), l)).backward()
    od.step()
    og.zero_grad()
    bce(D(fake), torch.ones(8, 1)).backward()
    og.step()
