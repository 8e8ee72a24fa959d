"""First-order MAML: copies learn, their gradients are averaged into `.grad` by hand."""

import copy, torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
opt = torch.optim.Adam(net.parameters(), 1e-3)
for it in range(3):
    opt.zero_grad()
    for task in range(3):
        l = copy.deepcopy(net)
        inner = torch.optim.SGD(l.parameters(), lr=0.01)
        for s in range(2):
            x = torch.randn(5, 1)
            inner.zero_grad()
            F.mse_loss(l(x), x.sin()).backward()
            inner.step()
        x = torch.randn(10, 1)
        inner.zero_grad()
        F.mse_loss(l(x), x.sin()).backward()
        for p, q in zip(net.parameters(), l.parameters()):
            p.grad = q.grad.clone() / 3 if p.grad is None else p.grad + q.grad / 3
    opt.step()
