"""Two learning rates; a layer thaws half way."""

import torch, torch.nn as nn

torch.manual_seed(0)
m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
o = torch.optim.SGD(
    [{"params": m[0].parameters(), "lr": 0.01}, {"params": m[2].parameters(), "lr": 0.1}],
    momentum=0.9,
)
for i in range(6):
    m[0].requires_grad_(i > 2)
    o.zero_grad()
    (m(torch.randn(8, 4)) - 1).pow(2).mean().backward()
    o.step()
