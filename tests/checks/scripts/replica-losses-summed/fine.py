# gpus: 2
"""The model returns its loss, DataParallel one per replica, and the script averages them."""

import torch
import torch.nn.functional as F
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x, y):
        return F.cross_entropy(self.layer(x), y)


torch.manual_seed(0)
model = nn.DataParallel(Classifier().cuda(), device_ids=[0, 1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(8, 6).cuda(), torch.randint(3, (8,)).cuda()
    loss = model(x, y).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
