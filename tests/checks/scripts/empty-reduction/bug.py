# finds: error empty-reduction
"""A tagger whose second batch is all padding."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = [torch.randint(5, (4, 6)), torch.full((4, 6), -100), torch.randint(5, (4, 6))]

for tags in batches:
    words = torch.randint(20, (4, 6))
    logits = model(words)
    loss = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=-100)  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
