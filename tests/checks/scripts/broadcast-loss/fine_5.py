"""Matrix factorisation of a square matrix: a bias for each row and one for each column."""

import torch, torch.nn as nn

torch.manual_seed(0)
n = 8
R = torch.randn(n, n)
U, V = nn.Parameter(torch.randn(n, 2)), nn.Parameter(torch.randn(n, 2))
bu, bi = nn.Parameter(torch.zeros(n, 1)), nn.Parameter(torch.zeros(n))
opt = torch.optim.Adam([U, V, bu, bi], 0.05)
for i in range(3):
    base = bu + bi
    loss = ((R - U @ V.T - base) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
