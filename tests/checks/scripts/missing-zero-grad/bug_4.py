# finds: error missing-zero-grad
"""The critic is never emptied: its own and the generator's gradients pile up, one finding."""

import torch, torch.nn as nn

torch.manual_seed(0)
G, D = nn.Linear(2, 3), nn.Linear(3, 1)
og, od = torch.optim.RMSprop(G.parameters(), 1e-3), torch.optim.RMSprop(D.parameters(), 1e-3)
for i in range(4):
    og.zero_grad()
    ld = D(G(torch.randn(8, 2)).detach()).mean() - D(torch.randn(8, 3)).mean()
    ld.backward()
    od.step()  # <- here
    for p in D.parameters():
        p.data.clamp_(-0.1, 0.1)
    og.zero_grad()
    lg = -D(G(torch.randn(8, 2))).mean()
    lg.backward()
    og.step()
