# notes: accumulation-not-divided
"""Several losses sent backward one by one, and several domains, each with its own loader."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
model, head = nn.Linear(5, 8), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01)
domains = [
    DataLoader(TensorDataset(torch.randn(24, 5), torch.randn(24, 1)), batch_size=8)
    for _ in range(2)
]

for batches in zip(*domains, strict=True):
    optimizer.zero_grad()
    for x, y in batches:
        features = model(x).relu()
        F.mse_loss(head(features), y).backward(retain_graph=True)
        (0.01 * features.abs().mean()).backward()
    optimizer.step()
