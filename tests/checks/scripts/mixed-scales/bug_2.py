# finds: error mixed-scales x 0.5005
"""One of two losses is sent backward without the scaler."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
    model(x).abs().mean().backward()  # <- here
    scaler.step(optimizer)
    scaler.update()
