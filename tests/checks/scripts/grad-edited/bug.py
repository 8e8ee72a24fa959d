# finds: note grad-edited x 1/8
"""Gluon's way: the gradient of the sum is divided by the batch size before the step."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y, reduction="sum").backward()
    for parameter in model.parameters():
        parameter.grad.div_(len(x))
    optimizer.step()  # <- here
