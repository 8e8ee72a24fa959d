"""A decoder: the sum over all time steps, divided by the number of real words."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
words, cell, out = nn.Embedding(15, 8), nn.GRUCell(8, 16), nn.Linear(16, 15)
net = nn.ModuleList([words, cell, out])
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

for step in range(2):
    target = torch.randint(1, 15, (6, 8))
    for row, length in enumerate([3, 8, 5, 4, 7, 8]):
        target[row, length:] = 0
    state, word, loss = torch.zeros(6, 16), torch.ones(6, dtype=torch.long), 0.0
    for t in range(8):
        state = cell(words(word), state)
        loss = loss + F.cross_entropy(out(state), target[:, t], ignore_index=0, reduction="sum")
        word = target[:, t]
    loss = loss / (target != 0).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
