# finds: note no-gradient
"""A branch of the model that the loss does not reach."""

import torch
from torch import nn


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(6, 1)
        self.unused = nn.Linear(6, 1)

    def forward(self, x):
        return self.used(x) + self.unused(x).detach()


torch.manual_seed(0)
model = TwoBranches()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()  # <- here
