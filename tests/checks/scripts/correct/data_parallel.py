# gpus: 2
"""DataParallel with equal chunks, the loss taken after the gather; losses per replica, averaged."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.DataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(12, 6).cuda(), torch.randint(3, (12,)).cuda()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
