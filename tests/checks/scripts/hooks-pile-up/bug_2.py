# finds: warning hooks-pile-up x 4
"""Two epochs only, and a function that registers the hooks at the beginning of each."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def double(gradient):
    return 2 * gradient


def prepare(network):
    for parameter in network[0].parameters():
        parameter.register_hook(double)  # <- here


for epoch in range(2):
    prepare(model)
    for batch in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.randn(8, 6)), torch.randn(8, 1)).backward()
        optimizer.step()
