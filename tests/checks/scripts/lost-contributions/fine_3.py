"""Sharpness-aware steps over two parts of a batch: one line makes the calls of both passes."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def fill(parts):
    for x, y in parts:
        (F.cross_entropy(net(x), y) / len(parts)).backward()


for step in range(3):
    parts = [(torch.randn(5, 6), torch.randint(0, 3, (5,))) for _ in range(2)]
    fill(parts)
    with torch.no_grad():
        moves = [0.05 * p.grad / p.grad.norm() for p in net.parameters()]
        for parameter, move in zip(net.parameters(), moves, strict=True):
            parameter.add_(move)
    optimizer.zero_grad()
    fill(parts)
    with torch.no_grad():
        for parameter, move in zip(net.parameters(), moves, strict=True):
            parameter.sub_(move)
    optimizer.step()
    optimizer.zero_grad()
