"""RankNet: all pairs of one batch."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Linear(6, 1)
opt = torch.optim.Adam(net.parameters(), 1e-3)
for i in range(3):
    x, y = torch.randn(10, 6), torch.randn(10)
    s = net(x)  # (10, 1)
    row = s.t()  # (1, 10)
    diff = s - row
    want = (y.view(-1, 1) > y.view(1, -1)).float()
    loss = F.binary_cross_entropy_with_logits(diff, want)
    opt.zero_grad()
    loss.backward()
    opt.step()
