# finds: warning foreign-root
# notes: accumulation-not-divided
"""One function for training and validation: the latter sends backward and makes no step."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
net = nn.Linear(4, 2)
opt = torch.optim.SGD(net.parameters(), lr=0.1)


def run(batches, train=True):
    tot = 0
    for x, y in batches:
        loss = F.cross_entropy(net(x), y)
        loss.backward()  # <- here
        if train:
            opt.step()
            opt.zero_grad()
        tot += loss.item()
    return tot


mk = lambda n: [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(n)]
for ep in range(3):
    run(mk(4))
    run(mk(2), train=False)
