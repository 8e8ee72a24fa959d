"""Pairs on purpose: a ranking loss over all pairs of a batch, and distances between embeddings."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for step in range(3):
    x = torch.randn(8, 4)
    y = x.sum(dim=1, keepdim=True)
    scores = model(x)
    margins = (scores - scores.t()) * torch.sign(y - y.t())
    ranking = F.relu(1 - margins).mean()
    residual = ((scores.unsqueeze(1) - y.unsqueeze(0)).squeeze(2) ** 2).min(dim=1).values.mean()
    loss = ranking + residual + torch.cdist(scores, y).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
