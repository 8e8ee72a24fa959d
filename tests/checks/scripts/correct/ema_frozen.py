"""A frozen backbone in eval mode, a trained head, and a moving average of its weights."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
backbone = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU()).eval()
for parameter in backbone.parameters():
    parameter.requires_grad = False
head = nn.Linear(12, 3)
average = copy.deepcopy(head)
optimizer = torch.optim.SGD(
    filter(lambda p: p.requires_grad, [*backbone.parameters(), *head.parameters()]), lr=0.1
)

for step in range(4):
    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    optimizer.zero_grad()
    loss = F.cross_entropy(head(backbone(x)), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for mean, value in zip(average.parameters(), head.parameters(), strict=True):
            mean.lerp_(value, 0.1)
