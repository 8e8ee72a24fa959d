# finds: warning double-division x 1/4
"""The helper that stands for the library divides by the accumulation steps; so does the script."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4


def backward(loss):
    """What accelerate's `backward` does."""
    loss = loss / ACCUMULATE
    loss.backward()


torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64, 5), torch.randint(3, (64,))), batch_size=8)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for number, (x, y) in enumerate(loader, start=1):
    loss = criterion(model(x), y)
    loss = loss / ACCUMULATE  # <- here
    backward(loss)
    if number % ACCUMULATE == 0:
        optimizer.step()
        optimizer.zero_grad()
