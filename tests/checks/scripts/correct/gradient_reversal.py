"""Domain-adversarial training: a layer that reverses the gradient."""

import torch
import torch.nn.functional as F
from torch import nn


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


torch.manual_seed(0)
features, label, domain = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 2)
parameters = [p for m in (features, label, domain) for p in m.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.1)

for step in range(4):
    x, y, d = torch.randn(16, 6), torch.randint(3, (16,)), torch.randint(2, (16,))
    hidden = features(x).relu()
    strength = step / 4
    loss = F.cross_entropy(label(hidden), y)
    loss = loss + F.cross_entropy(domain(Reverse.apply(hidden, strength)), d)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
