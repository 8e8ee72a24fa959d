# finds: warning double-backward-same-graph x 2
"""Each head's loss is sent backward, and then their sum: all of them count twice."""

import torch
from torch import nn

torch.manual_seed(0)
trunk = nn.Linear(5, 7)
heads = nn.ModuleList(nn.Linear(7, 1) for _ in range(3))
optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.1)

for step in range(3):
    features = torch.tanh(trunk(torch.randn(4, 5)))
    losses = [nn.functional.mse_loss(head(features), torch.randn(4, 1)) for head in heads]
    optimizer.zero_grad()
    for loss in losses:
        loss.backward(retain_graph=True)
    sum(losses).backward()  # <- here
    optimizer.step()
