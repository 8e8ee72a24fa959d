# finds: warning lost-contributions
"""Emptied in every turn and stepped in every second one, in two epochs: half is lost each time."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(40, 5), torch.randn(40, 1)), batch_size=5)
model = nn.Linear(5, 1)
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(2):
    for turn, (x, y) in enumerate(loader):
        optimizer.zero_grad()  # <- here
        loss = (model(x) - y).square().mean() / 2
        loss.backward()
        if turn % 2:
            optimizer.step()
