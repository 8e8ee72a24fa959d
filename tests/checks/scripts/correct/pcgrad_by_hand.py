# notes: grad-edited
"""PCGrad: two losses, each sent backward alone and read, and a projection put into `.grad`."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
body, a, b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
opt = torch.optim.Adam(body.parameters(), 1e-3)
oh = torch.optim.Adam([*a.parameters(), *b.parameters()], 1e-3)
for i in range(3):
    h = body(torch.randn(10, 6)).relu()
    l1 = F.cross_entropy(a(h), torch.randint(3, (10,)))
    l2 = F.mse_loss(b(h), torch.randn(10, 1))
    opt.zero_grad()
    oh.zero_grad()
    l1.backward(retain_graph=True)
    g1 = [p.grad.clone() for p in body.parameters()]
    opt.zero_grad()
    l2.backward()
    g2 = [p.grad.clone() for p in body.parameters()]
    for p, x, y in zip(body.parameters(), g1, g2):
        d = (x * y).sum()
        p.grad = x + y - (min(d, torch.tensor(0.0)) / (y * y).sum()) * y
    opt.step()
    oh.step()
