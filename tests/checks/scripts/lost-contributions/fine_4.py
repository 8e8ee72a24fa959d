"""Gradients that are measured and thrown away: of a term of the loss, of an input, for a step back."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
norms = []

for step in range(3):  # the norm of one term, before the whole is learnt from
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    logits = net(x)
    main, penalty = F.cross_entropy(logits, y), logits.pow(2).mean()
    penalty.backward(retain_graph=True)
    norms.append(net[0].weight.grad.norm())
    optimizer.zero_grad()
    (main + 0.1 * penalty).backward()
    optimizer.step()
    optimizer.zero_grad()

for step in range(3):  # an adversarial example
    x, y = torch.randn(8, 6, requires_grad=True), torch.randint(3, (8,))
    (-F.mse_loss(net(x), torch.zeros(8, 3))).backward()
    optimizer.zero_grad()
    F.cross_entropy(net(x.detach() + 0.1 * x.grad.sign()), y).backward()
    optimizer.step()
    optimizer.zero_grad()
