# finds: warning double-division x 1/4
"""The loss is divided by the calls of a window, and then the gradients are, by a helper."""

import torch
from torch import nn

CALLS = 4
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def average_gradients():
    for parameter in model.parameters():
        parameter.grad.div_(CALLS)


for number in range(8):
    x, y = torch.randn(6, 5), torch.randint(3, (6,))
    loss = nn.functional.cross_entropy(model(x), y) / CALLS  # <- here
    loss.backward()
    if number % CALLS == CALLS - 1:
        average_gradients()
        optimizer.step()
        optimizer.zero_grad()
