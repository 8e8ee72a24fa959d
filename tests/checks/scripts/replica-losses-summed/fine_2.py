# gpus: 2
"""The replicas' losses are averaged, in each of four calls that are divided by four; then a clip."""

import torch
from torch import nn


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x, y):
        return nn.functional.cross_entropy(self.layer(x), y)


torch.manual_seed(0)
model = nn.DataParallel(WithLoss().cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for number in range(8):
    x, y = torch.randn(8, 6).cuda(), torch.randint(3, (8,)).cuda()
    loss = model(x, y).mean() / 4
    loss.backward()
    if number % 4 == 3:
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        optimizer.zero_grad()
