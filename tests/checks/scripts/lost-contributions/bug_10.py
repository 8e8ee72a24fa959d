# finds: warning lost-contributions
"""A loop over tasks that empties the buffers in it: only the last head learns."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
e = nn.Linear(4, 8)
hs = nn.ModuleList([nn.Linear(8, 2) for _ in range(3)])
opt = torch.optim.SGD([*e.parameters(), *hs.parameters()], 0.1)
for i in range(4):
    x = torch.randn(8, 4)
    for h in hs:
        opt.zero_grad()  # <- here
        F.cross_entropy(h(e(x).relu()), torch.randint(2, (8,))).backward()
    opt.step()
