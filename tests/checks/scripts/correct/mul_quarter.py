"""Accumulation with a factor of a quarter."""

import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
m = torch.nn.Linear(3, 2)
o = torch.optim.SGD(m.parameters(), lr=0.1)
it = iter(DataLoader(TensorDataset(torch.randn(64, 3), torch.randint(2, (64,))), batch_size=4))
for s in range(4):
    o.zero_grad()
    for _ in range(4):
        x, y = next(it)
        (0.25 * torch.nn.functional.cross_entropy(m(x), y)).backward()
    o.step()
