# gpus: 2
# notes: ragged-replicas
"""DataParallel with a last batch of three on two devices."""

import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.l = nn.Linear(3, 2)

    def forward(s, x, y):
        return F.cross_entropy(s.l(x), y)


m = nn.DataParallel(M().cuda())
o = torch.optim.SGD(m.parameters(), lr=0.1)
for x, y in DataLoader(TensorDataset(torch.randn(21, 3), torch.randint(2, (21,))), batch_size=6):
    o.zero_grad()
    m(x.cuda(), y.cuda()).mean().backward()
    o.step()
