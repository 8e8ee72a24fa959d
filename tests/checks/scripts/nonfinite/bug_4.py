# finds: error nonfinite
"""p log p, where a probability is 0 after all."""

import torch, torch.nn as nn

torch.manual_seed(0)
net = nn.Linear(4, 3)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for i in range(4):
    p = torch.softmax(net(torch.randn(8, 4)) * (1 if i < 2 else 1e4), 1)
    ent = -(p * p.log()).sum(1)  # <- here
    opt.zero_grad()
    (ent.mean()).backward()
    opt.step()
