# finds: warning short-window x 2/5
"""A list of window lengths, the last one short."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 2)
optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
ACCUMULATE = 5


def train(count):
    for _ in range(count):
        x, y = torch.randn(8, 4), torch.randint(2, (8,))
        loss = nn.functional.cross_entropy(net(x), y) / ACCUMULATE  # <- here
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()


for count in (5, 5, 5, 2):
    train(count)
