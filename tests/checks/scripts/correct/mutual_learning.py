"""Three networks learn from one another, each with an optimizer."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
nets = [nn.Linear(6, 3) for _ in range(3)]
opts = [torch.optim.SGD(n.parameters(), 0.1) for n in nets]
for i in range(3):
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    outs = [n(x) for n in nets]
    for k, (n, o) in enumerate(zip(nets, opts)):
        kl = (
            sum(
                F.kl_div(outs[k].log_softmax(1), outs[j].detach().softmax(1), reduction="batchmean")
                for j in range(3)
                if j != k
            )
            / 2
        )
        o.zero_grad()
        (F.cross_entropy(outs[k], y) + kl).backward()
        o.step()
