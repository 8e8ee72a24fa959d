"""An optimizer that calls its closure once; the closure accumulates, the loop empties."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(20, 3)
y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def closure():
    for part, target in zip(x.chunk(4), y.chunk(4)):
        loss = nn.functional.mse_loss(model(part), target) / 4
        loss.backward()
    return loss


for step in range(3):
    optimizer.zero_grad()
    optimizer.step(closure)
