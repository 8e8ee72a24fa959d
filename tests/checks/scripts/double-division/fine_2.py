"""Two losses are averaged, and two calls are: the same divisor with two meanings."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Linear(5, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    optimizer.zero_grad()
    for half in range(2):
        x, y = torch.randn(8, 5), torch.randn(8, 2)
        out = model(x)
        first = F.mse_loss(out[:, 0], y[:, 0])
        second = F.l1_loss(out[:, 1], y[:, 1])
        loss = (first + second) / 2
        (loss / 2).backward()
    optimizer.step()
