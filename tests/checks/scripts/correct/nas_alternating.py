"""Weights and architecture in turn, each with its optimizer."""

import torch, torch.nn as nn

torch.manual_seed(0)
w = nn.Linear(3, 4)
alpha = nn.Parameter(torch.zeros(4))
h = nn.Linear(4, 1)
ow = torch.optim.SGD([*w.parameters(), *h.parameters()], lr=0.1)
oa = torch.optim.Adam([alpha])
f = lambda x: h(torch.relu(w(x)) * alpha.softmax(0))
for i in range(4):
    oa.zero_grad()
    (f(torch.randn(6, 3)) - 1).pow(2).mean().backward()
    oa.step()
    ow.zero_grad()
    (f(torch.randn(6, 3)) - 1).pow(2).mean().backward()
    ow.step()
