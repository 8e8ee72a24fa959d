# finds: error nonfinite
"""A cross entropy written by hand: the log of a probability that is 0."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for scale in (1.0, 1e3):
    x, y = scale * torch.randn(6, 4), torch.randint(3, (6,))
    probabilities = torch.softmax(model(x), dim=1)
    loss = -torch.log(probabilities[range(6), y]).mean()  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
