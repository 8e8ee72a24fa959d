# finds: warning lost-contributions
"""Two losses, two backward calls, and the buffers are emptied before each of them."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body, head, aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters(), *aux.parameters()], lr=0.1)

for step in range(4):
    x, y, z = torch.randn(8, 6), torch.randint(3, (8,)), torch.randn(8, 1)
    features = body(x).relu()

    optimizer.zero_grad()
    F.cross_entropy(head(features), y).backward(retain_graph=True)

    optimizer.zero_grad()  # <- here
    F.mse_loss(aux(features), z).backward()
    optimizer.step()
