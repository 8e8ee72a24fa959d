# notes: grad-edited
"""Gradients are added up by hand, and put into `.grad` anew for every step."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
parameters = list(net.parameters())
for step in range(3):
    totals = [torch.zeros_like(p) for p in parameters]
    for part in range(4):
        loss = F.mse_loss(net(torch.randn(3, 4)), torch.randn(3, 1))
        for total, gradient in zip(totals, torch.autograd.grad(loss, parameters), strict=True):
            total.add_(gradient, alpha=1 / 4)
    for parameter, total in zip(parameters, totals, strict=True):
        parameter.grad = total
    optimizer.step()
