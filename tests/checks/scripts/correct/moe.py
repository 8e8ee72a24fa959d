"""A mixture of experts, some of them idle."""

import torch, torch.nn as nn

torch.manual_seed(0)
g = nn.Linear(4, 3)
ex = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
o = torch.optim.Adam([*g.parameters(), *ex.parameters()])
for i in range(5):
    x = torch.randn(6, 4)
    p = g(x).softmax(1)
    k = p.argmax(1)
    out = torch.stack([p[j, k[j]] * ex[int(k[j])](x[j]) for j in range(6)])
    loss = (out.squeeze(1) - x.sum(1)).pow(2).mean() + 0.01 * (p.mean(0) ** 2).sum() * 3
    o.zero_grad()
    loss.backward()
    o.step()
