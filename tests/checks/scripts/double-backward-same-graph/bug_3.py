# finds: warning double-backward-same-graph x 2
"""One loss is sent backward twice: by the step, and by what logs its gradients."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    loss = F.cross_entropy(net(torch.randn(5, 4)), torch.randint(3, (5,)))
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    norm = net.weight.grad.norm()
    loss.backward()  # <- here
    optimizer.step()
