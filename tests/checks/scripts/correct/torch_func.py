# notes: grad-edited
"""Gradients by torch.func, handed to an optimizer by hand."""

import torch
from torch import nn
from torch.func import functional_call, grad

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def loss_of(parameters, x, y):
    return nn.functional.mse_loss(functional_call(model, parameters, (x,)), y)


for step in range(3):
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    gradients = grad(loss_of)(dict(model.named_parameters()), x, y)
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    nn.functional.mse_loss(model(x), y)

x = torch.ones(2, requires_grad=True)
(x * x).sum().backward()
