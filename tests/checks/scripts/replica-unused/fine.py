# gpus: 4
"""Four samples on four devices."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.DataParallel(nn.Linear(6, 3).cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(4, 6).cuda(), torch.randint(3, (4,)).cuda()
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
