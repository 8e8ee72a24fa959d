# finds: warning mean-of-means
"""Masked sequences, accumulated and not divided: one finding, which says both."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.GRU(4, 8, batch_first=True)
h = nn.Linear(8, 1)
opt = torch.optim.Adam([*net.parameters(), *h.parameters()], 1e-3)
accum_steps = 2
for i in range(6):
    L = [9, 3, 6, 2, 8, 5][i]
    x, y = torch.randn(2, 10, 4), torch.randn(2, 10, 1)
    m = torch.arange(10)[None, :, None] < L
    o = h(net(x)[0])
    loss = F.mse_loss(o[m.expand_as(o)], y[m.expand_as(y)])  # <- here
    loss.backward()
    if (i + 1) % accum_steps == 0:
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        opt.step()
        opt.zero_grad()
