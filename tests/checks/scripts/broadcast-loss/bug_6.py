# finds: warning broadcast-loss
"""The advantage of an actor-critic is a matrix: returns (B,) minus values (B, 1), made without a graph."""

import torch
from torch import nn

torch.manual_seed(0)
pi = nn.Linear(4, 3)
v = nn.Linear(4, 1)
opt = torch.optim.Adam([*pi.parameters(), *v.parameters()], 1e-3)
for i in range(3):
    s = torch.randn(10, 4)
    ret = torch.randn(10)
    dist = torch.distributions.Categorical(logits=pi(s))
    a = dist.sample()
    value = v(s)
    adv = ret - value.detach()
    pl = -(dist.log_prob(a) * adv).mean()  # <- here
    vl = nn.functional.mse_loss(value.squeeze(-1), ret)
    opt.zero_grad()
    (pl + 0.5 * vl).backward()
    opt.step()
