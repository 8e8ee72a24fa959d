# notes: lost-contributions
"""SAM whose first pass sees a part of the batch only."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for i in range(4):
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    F.cross_entropy(net(x[:4]), y[:4]).backward()
    with torch.no_grad():
        es = [0.05 * p.grad / (p.grad.norm() + 1e-9) for p in net.parameters()]
        for p, e in zip(net.parameters(), es):
            p.add_(e)
    opt.zero_grad()
    F.cross_entropy(net(x), y).backward()
    with torch.no_grad():
        for p, e in zip(net.parameters(), es):
            p.sub_(e)
    opt.step()
    opt.zero_grad()
