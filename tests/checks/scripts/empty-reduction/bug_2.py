# finds: error empty-reduction
"""A detector that averages over the cells with an object; the last image has none."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Conv2d(3, 1, 3, padding=1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for objects in (5, 2, 0):
    images, target = torch.randn(2, 3, 6, 6), torch.rand(2, 1, 6, 6)
    mask = torch.zeros(2, 1, 6, 6)
    mask.view(-1)[:objects] = 1
    error = (model(images) - target) ** 2
    loss = (error * mask).sum() / mask.sum()  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
