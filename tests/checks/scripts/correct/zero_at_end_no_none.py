"""Emptied to zeros, and frozen half way."""

import torch

torch.manual_seed(0)
m = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
o = torch.optim.SGD(m.parameters(), lr=0.1)
for i in range(4):
    (m(torch.randn(8, 3)) - 3).pow(2).mean().backward()
    o.step()
    o.zero_grad(set_to_none=False)
for p in m[0].parameters():
    p.requires_grad = False
for i in range(3):
    (m(torch.randn(8, 3)) - 3).pow(2).mean().backward()
    o.step()
    o.zero_grad(set_to_none=False)
