# finds: warning foreign-root
"""A validation loss is sent backward after each epoch; the next step takes it with its own."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def train():
    net.train()
    for _ in range(4):
        loss = F.cross_entropy(net(torch.randn(8, 6)), torch.randint(3, (8,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def check_progress():
    net.eval()
    loss = F.cross_entropy(net(torch.randn(20, 6)), torch.randint(3, (20,)))
    loss.backward()  # <- here
    return loss.item()


for epoch in range(3):
    train()
    check_progress()
