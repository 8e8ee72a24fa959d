"""A differential equation in the loss."""

import torch, torch.nn as nn

torch.manual_seed(0)
u = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
o = torch.optim.Adam(u.parameters(), 1e-3)
for i in range(4):
    x = torch.rand(16, 1, requires_grad=True)
    y = u(x)
    (dy,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    (ddy,) = torch.autograd.grad(dy, x, torch.ones_like(dy), create_graph=True)
    loss = (ddy + y).pow(2).mean() + u(torch.zeros(1, 1)).pow(2).squeeze()
    o.zero_grad()
    loss.backward()
    o.step()
