"""Every prediction meets every target on purpose; the row is made on a line before."""

import torch, torch.nn as nn

torch.manual_seed(0)
net = nn.Linear(6, 1)
opt = torch.optim.Adam(net.parameters(), 1e-3)
for i in range(3):
    x, y = torch.randn(10, 6), torch.randn(10)
    p = net(x)
    t = y.view(1, -1)
    d = p - t
    w = torch.exp(-(d.detach() ** 2))
    loss = (w * d**2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
