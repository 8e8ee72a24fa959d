# finds: warning double-division x 1/12
"""A mean over 12 samples of two numbers each, divided by the 12 samples once more."""

import torch
from torch import nn

torch.manual_seed(0)
data, target = torch.randn(36, 7), torch.randn(36, 2)
batch_size = 12
model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for start in range(0, len(data), batch_size):
    part = slice(start, start + batch_size)
    loss = nn.MSELoss()(model(data[part]), target[part])
    loss = loss / batch_size  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
