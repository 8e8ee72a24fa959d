# finds: warning foreign-root
"""The validation comes first in each epoch, and is known by what it is called."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)


class Trainer:
    def step(self, x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    def fit(self, epochs):
        for epoch in range(epochs):
            val_loss = F.cross_entropy(net(torch.randn(20, 6)), torch.randint(3, (20,)))
            val_loss.backward()  # <- here
            for _ in range(4):
                self.step(torch.randn(8, 6), torch.randint(3, (8,)))
                optimizer.step()
                optimizer.zero_grad()


Trainer().fit(3)
