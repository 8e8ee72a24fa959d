"""Accumulation over two calls, of which the second goes through reentrant checkpoints."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(3))
head = nn.Linear(8, 2)
optimizer = torch.optim.AdamW([*blocks.parameters(), *head.parameters()], 1e-3)
for number in range(4):
    x = torch.randn(6, 8)
    for place, block in enumerate(blocks):
        x = checkpoint(block, x, use_reentrant=number % 2 == 1 and place > 0)
    loss = F.cross_entropy(head(x), torch.randint(0, 2, (6,))) / 2
    loss.backward()
    if number % 2:
        optimizer.step()
        optimizer.zero_grad()
