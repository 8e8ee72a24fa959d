# gpus: 4
# finds: warning ragged-replicas x 3
"""Ten samples on four devices are 3, 3, 3 and 1, and the four means are averaged."""

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
model = nn.DataParallel(Classifier().cuda())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for step in range(3):
    x, y = torch.randn(10, 6).cuda(), torch.randint(3, (10,)).cuda()
    loss = model(x, y).mean()  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
