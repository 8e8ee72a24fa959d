"""Vectors that meet square matrices on purpose: a mask, a kernel, and a module with a loss of its own."""

import torch
from torch import nn


class Metric(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)

    def forward(self, x, labels):
        distances = (self.embed(x)[:, None] - self.embed(x)[None]).pow(2).sum(2)
        return (distances * (labels[:, None] == labels[None])).mean()


torch.manual_seed(0)
net, metric = nn.Linear(4, 1), Metric()
optimizer = torch.optim.SGD([*net.parameters(), *metric.parameters()], lr=0.1)

for step in range(3):
    x = torch.randn(6, 4)
    scores = net(x).squeeze(1)
    kernel = torch.exp(-torch.cdist(x, x))
    later = torch.ones(6, 6).triu()
    loss = (scores * kernel).mean() + (scores * later).sum() / 21 + metric(x, torch.arange(6) // 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
