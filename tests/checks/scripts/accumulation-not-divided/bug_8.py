# finds: warning accumulation-not-divided x 4
"""The last window of an epoch is shorter: one finding, with the factor of most windows."""

import torch, torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
net = nn.Linear(4, 3)
opt = torch.optim.SGD(net.parameters(), 0.1)
dl = DataLoader(TensorDataset(torch.randn(80, 4), torch.randint(3, (80,))), batch_size=8)
for e in range(2):
    for i, (x, y) in enumerate(dl):
        nn.functional.cross_entropy(net(x), y).backward()  # <- here
        if (i + 1) % 4 == 0 or i + 1 == len(dl):
            opt.step()
            opt.zero_grad()
