"""Contrast with a queue, and a slow copy."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
q = nn.Linear(4, 6)
k = nn.Linear(4, 6)
k.load_state_dict(q.state_dict())
[p.requires_grad_(False) for p in k.parameters()]
queue = F.normalize(torch.randn(6, 8), dim=0)
o = torch.optim.SGD(q.parameters(), lr=0.1)
for i in range(4):
    x = torch.randn(8, 4)
    a = F.normalize(q(x), dim=1)
    b = F.normalize(k(x + 0.1), dim=1)
    pos = torch.einsum("nc,nc->n", a, b).unsqueeze(-1)
    neg = torch.einsum("nc,ck->nk", a, queue)
    loss = F.cross_entropy(torch.cat([pos, neg], 1) / 0.1, torch.zeros(8, dtype=torch.long))
    o.zero_grad()
    loss.backward()
    o.step()
    for p, t in zip(q.parameters(), k.parameters()):
        t.data.mul_(0.9).add_(p.data, alpha=0.1)
    queue = b.t()
