# finds: warning hooks-pile-up
"""The hook is registered in the loop: halved, then quartered, then an eighth."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(4):
    model.weight.register_hook(lambda gradient: 0.5 * gradient)  # <- here
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
