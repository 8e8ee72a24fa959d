# finds: error mixed-scales x 1025/2
"""Unscaled after the first call of the window; the second is added with the loss scale."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

for number in range(6):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    loss = nn.functional.mse_loss(model(x), y) / 2
    scaler.scale(loss).backward()
    if number % 2 == 0:
        scaler.unscale_(optimizer)  # <- here
    else:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
