"""Accumulation as it should be: token sums divided by the tokens of the whole window."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 12))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    window = [torch.randint(12, (2, length)) for length in (7, 4, 9)]
    total = sum(tokens[:, 1:].numel() for tokens in window)
    optimizer.zero_grad()
    for tokens in window:
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum") / total
        loss.backward()
    optimizer.step()
