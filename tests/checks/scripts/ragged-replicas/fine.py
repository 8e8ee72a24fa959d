# gpus: 4
"""Ten samples on four devices; the loss is taken over all of them after the gather."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.DataParallel(nn.Linear(6, 3).cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(10, 6).cuda(), torch.randint(3, (10,)).cuda()
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
