# notes: grad-edited
"""DP-SGD by hand: each sample clipped and thrown away, the mean with noise put into `.grad`."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Linear(5, 3)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
C = 1.0
for s in range(3):
    X, Y = torch.randn(6, 5), torch.randint(3, (6,))
    acc = [torch.zeros_like(p) for p in net.parameters()]
    for x, y in zip(X, Y):
        net.zero_grad()
        F.cross_entropy(net(x[None]), y[None]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), C)
        for a, p in zip(acc, net.parameters()):
            a += p.grad
    for a, p in zip(acc, net.parameters()):
        p.grad = (a + 0.1 * torch.randn_like(a)) / len(X)
    opt.step()
