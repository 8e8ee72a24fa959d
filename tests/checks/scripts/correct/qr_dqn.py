"""Quantile regression between two sets of quantiles."""

import torch, torch.nn as nn

torch.manual_seed(0)
net = nn.Linear(4, 5)
tgt = nn.Linear(4, 5)
o = torch.optim.Adam(net.parameters())
for i in range(4):
    s = torch.randn(5, 4)
    z = net(s)
    t = torch.randn(5, 1) + 0.9 * tgt(s).detach()
    u = t.unsqueeze(1) - z.unsqueeze(2)
    tau = (torch.arange(5) + 0.5) / 5
    hub = torch.where(u.abs() < 1, 0.5 * u**2, u.abs() - 0.5)
    loss = ((tau[None, :, None] - (u.detach() < 0).float()).abs() * hub).sum(1).mean()
    o.zero_grad()
    loss.backward()
    o.step()
