# notes: accumulation-not-divided
"""Two optimizers and two losses under one scaler."""

import torch, torch.nn as nn

torch.manual_seed(0)
a = nn.Linear(3, 4)
b = nn.Linear(4, 1)
oa = torch.optim.SGD(a.parameters(), lr=0.1)
ob = torch.optim.Adam(b.parameters())
s = torch.amp.GradScaler("cpu", init_scale=256.0)
for i in range(4):
    oa.zero_grad()
    ob.zero_grad()
    l0 = (b(a(torch.randn(5, 3))) - 1).pow(2).mean()
    l1 = b(a(torch.randn(5, 3))).abs().mean()
    s.scale(l0).backward(retain_graph=True)
    s.scale(l1).backward()
    s.unscale_(oa)
    torch.nn.utils.clip_grad_norm_(a.parameters(), 0.1)
    s.step(oa)
    s.step(ob)
    s.update()
