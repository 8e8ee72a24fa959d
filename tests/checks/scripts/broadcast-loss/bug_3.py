# finds: warning broadcast-loss
"""The fused loss of torch, with a warning that scrolled by."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for step in range(3):
    x = torch.randn(10, 4)
    y = x.sum(dim=1)
    loss = F.mse_loss(model(x), y)  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
