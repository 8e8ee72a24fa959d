# finds: error missing-zero-grad
"""LBFGS with a closure that empties nothing: the loop around it does, once for each step."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(20, 3)
y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
model = nn.Linear(3, 1)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)


def closure():
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()  # <- here
    return loss


for step in range(3):
    optimizer.zero_grad()
    optimizer.step(closure)
