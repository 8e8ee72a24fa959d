# finds: error missing-zero-grad
"""The last gradient of a warm-up is still there when another optimizer takes over."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Linear(4, 2)
o1 = torch.optim.SGD(net.parameters(), lr=0.1)
o2 = torch.optim.Adam(net.parameters(), 1e-3)
for i in range(3):
    o1.zero_grad()
    F.mse_loss(net(torch.randn(8, 4)), torch.randn(8, 2)).backward()
    o1.step()
for i in range(3):
    F.cross_entropy(net(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
    o2.step()  # <- here
    o2.zero_grad()
