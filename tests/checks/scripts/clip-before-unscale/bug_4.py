# finds: error clip-before-unscale
# notes: grad-edited
"""A static loss scale by hand, and the clip before the division."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
n = nn.Linear(4, 2)
opt = torch.optim.SGD(n.parameters(), 0.1)
S = 1024.0
for w in range(3):
    opt.zero_grad()
    (F.cross_entropy(n(torch.randn(8, 4)), torch.randint(2, (8,))) * S).backward()
    nn.utils.clip_grad_norm_(n.parameters(), 1.0)  # <- here
    for p in n.parameters():
        p.grad /= S
    opt.step()
