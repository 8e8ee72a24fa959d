"""A contrastive loss over all of a large batch, whose gradient goes through the model in pieces."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
queries, documents = nn.Linear(12, 8), nn.Linear(12, 8)
parameters = [*queries.parameters(), *documents.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.1)

for step in range(2):
    optimizer.zero_grad()
    batches = [(queries, torch.randn(16, 12)), (documents, torch.randn(16, 12))]
    with torch.no_grad():
        left, right = [torch.cat([net(x) for x in batch.split(4)]) for net, batch in batches]
    left.requires_grad_()
    right.requires_grad_()
    F.cross_entropy(left @ right.T, torch.arange(16)).backward()
    for (net, batch), given in zip(batches, (left.grad, right.grad)):
        for x, part in zip(batch.split(4), given.split(4)):
            (net(x) * part).sum().backward()
    optimizer.step()
