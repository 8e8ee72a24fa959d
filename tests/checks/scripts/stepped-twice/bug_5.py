# finds: warning stepped-twice x 2
"""A parameter stands twice in the list that the optimizer was given."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
n = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
ps = list(n.parameters())
opt = torch.optim.SGD([ps[0], ps[0], *ps[1:]], lr=0.1)
for i in range(3):
    opt.zero_grad()
    F.cross_entropy(n(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
    opt.step()  # <- here
