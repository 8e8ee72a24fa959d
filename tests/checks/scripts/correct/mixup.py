"""Mixup, label smoothing, focal loss and class weights written by hand."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Linear(6, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
weights = torch.tensor([1.0, 2.0, 3.0, 4.0])

for step in range(4):
    x, y = torch.randn(16, 6), torch.randint(4, (16,))
    share, order = 0.3, torch.randperm(16)
    logits = model(share * x + (1 - share) * x[order])
    mixed = share * smooth(logits, y) + (1 - share) * smooth(logits, y[order])
    per_item = F.cross_entropy(logits, y, reduction="none")
    focal = ((1 - torch.exp(-per_item)) ** 2 * per_item).mean()
    weighted = (weights[y] * per_item).sum() / weights[y].sum()
    loss = mixed + focal + weighted
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
