"""Learning rates that grow with the batch, or that are round for other reasons."""

import torch
from torch import nn

torch.manual_seed(0)

for lr, batch in ((0.1 * 64 / 256, 64), (0.0025, 4), (6.25e-5, 32), (0.02 * 4 / 16, 4)):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for step in range(2):
        x, y = torch.randn(batch, 5), torch.randn(batch, 1)
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
