# notes: mean-of-means, accumulation-not-divided
"""Policy gradients over a growing number of episodes."""

import torch

torch.manual_seed(0)
p = torch.nn.Linear(4, 2)
o = torch.optim.SGD(p.parameters(), lr=0.01)
for up in range(3):
    o.zero_grad()
    for ep in range(3 + up):
        n = 4 + ep
        lp = torch.log_softmax(p(torch.randn(n, 4)), 1)[range(n), torch.randint(2, (n,))]
        (-(lp * torch.randn(n)).mean()).backward()
    o.step()
