# finds: warning short-window x 1/2
"""Ten batches of four, four to a step: the last window has two, and the batch as many items as K."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
K = 4
loader = DataLoader(TensorDataset(torch.randn(40, 6), torch.randint(0, 3, (40,))), batch_size=4)
net = nn.Linear(6, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for number, (x, y) in enumerate(loader, start=1):
    loss = F.cross_entropy(net(x), y) / K  # <- here
    loss.backward()
    if number % K == 0 or number == len(loader):
        optimizer.step()
        optimizer.zero_grad()
