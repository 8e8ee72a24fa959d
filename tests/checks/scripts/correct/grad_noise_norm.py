# notes: grad-edited
"""A clip written by hand."""

import torch

torch.manual_seed(0)
m = torch.nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), lr=0.1)


def clip_by_hand(ps, mx):
    n = torch.sqrt(sum((p.grad**2).sum() for p in ps))
    c = (mx / (n + 1e-6)).clamp(max=1)
    for p in ps:
        p.grad.mul_(c)


for i in range(4):
    o.zero_grad()
    (m(torch.randn(8, 3)) - 3).pow(2).mean().backward()
    clip_by_hand(list(m.parameters()), 0.5)
    o.step()
