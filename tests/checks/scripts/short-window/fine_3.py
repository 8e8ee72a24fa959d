# notes: mean-of-means
"""Deep supervision: a backward call for each of three levels, which reach fewer and fewer layers."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
b1, b2, b3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
hs = nn.ModuleList([nn.Conv2d(8, 4, 1) for _ in range(3)])
ps = [p for m in (b1, b2, b3, hs) for p in m.parameters()]
opt = torch.optim.SGD(ps, 0.05)
for i in range(3):
    x, t = torch.randn(2, 3, 16, 16), torch.randint(4, (2, 16, 16))
    f, feats = x, []
    for b in (b1, b2, b3):
        f = b(f).relu()
        feats.append(f)
    opt.zero_grad()
    for level, (h, f) in enumerate(zip(hs, feats)):
        o = h(f)
        tt = F.interpolate(t[:, None].float(), o.shape[-2:]).squeeze(1).long()
        (F.cross_entropy(o, tt) / 3).backward(retain_graph=level < 2)
    opt.step()
