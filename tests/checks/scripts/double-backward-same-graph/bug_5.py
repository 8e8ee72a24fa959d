# finds: warning double-backward-same-graph x 2
"""The same loss twice in a loop: one finding, though its calls are also added."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for i in range(3):
    opt.zero_grad()
    loss = F.cross_entropy(net(torch.randn(8, 4)), torch.randint(2, (8,)))
    for k in range(2):
        loss.backward(retain_graph=True)  # <- here
    opt.step()
