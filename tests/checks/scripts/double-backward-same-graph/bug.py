# finds: warning double-backward-same-graph
"""A running total is sent backward in the loop: the first loss counts four times."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
cell, head = nn.RNNCell(3, 8), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.01)

for step in range(3):
    x, y = torch.randn(4, 6, 3), torch.randn(4, 6, 1)
    state, total = torch.zeros(6, 8), 0.0
    optimizer.zero_grad()
    for t in range(4):
        state = cell(x[t], state)
        total = total + F.mse_loss(head(state), y[t])
        total.backward(retain_graph=True)  # <- here
    optimizer.step()
