"""A closure of several backward calls, which empties once; the loss is looked at before the step."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(20, 3)
y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
model = nn.Linear(3, 1)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)


def closure():
    optimizer.zero_grad()
    total = 0.0
    for part, target in zip(x.chunk(4), y.chunk(4)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
        total += loss.item()
    return total


for step in range(3):
    print(closure())
    optimizer.zero_grad()
    optimizer.step(closure)
