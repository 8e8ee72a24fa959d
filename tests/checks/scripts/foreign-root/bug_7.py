# finds: warning foreign-root
# notes: sum-reduction, adam-hides-factor
"""Saliency maps after each epoch fill the buffers of the weights too."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
n = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
opt = torch.optim.Adam(n.parameters(), 1e-3)


def saliency(x):
    x = x.clone().requires_grad_()
    n(x).max(1).values.sum().backward()  # <- here
    return x.grad.abs()


for e in range(3):
    for i in range(3):
        F.cross_entropy(n(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
        opt.step()
        opt.zero_grad()
    saliency(torch.randn(4, 4))
