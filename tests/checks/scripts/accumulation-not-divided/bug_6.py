# finds: warning accumulation-not-divided x 5
"""A counter of the script says when it is time for a step; slices of one tensor, no DataLoader."""

import torch, torch.nn as nn, random

torch.manual_seed(0)
net = nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
X, Y = torch.randn(200, 4), torch.randint(2, (200,))
count = 0
for i in range(0, 200, 10):
    loss = nn.functional.cross_entropy(net(X[i : i + 10]), Y[i : i + 10])
    loss.backward()  # <- here
    count += 1
    if count == 5:
        opt.step()
        opt.zero_grad()
        count = 0
