# finds: warning stepped-twice x 2
"""`scaler.step` and `optimizer.step`, both."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=16.0)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.step()  # <- here
