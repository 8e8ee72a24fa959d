# finds: warning double-division
"""A mean is divided by the batch again; the last batch is shorter: one finding."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
crit = nn.CrossEntropyLoss()
dl = DataLoader(
    TensorDataset(torch.randn(100, 5), torch.randint(3, (100,))), batch_size=16, shuffle=True
)
for ep in range(2):
    for x, y in dl:
        opt.zero_grad()
        loss = crit(net(x), y) / len(x)  # <- here
        loss.backward()
        opt.step()
