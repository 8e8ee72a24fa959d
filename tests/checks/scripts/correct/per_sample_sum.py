"""One sample at a time, divided by their number."""

import torch

torch.manual_seed(0)
m = torch.nn.Linear(3, 2)
o = torch.optim.SGD(m.parameters(), lr=0.1)
X = torch.randn(8, 3)
Y = torch.randint(2, (8,))
for e in range(3):
    o.zero_grad()
    for x, y in zip(X, Y):
        l = torch.nn.functional.cross_entropy(m(x[None]), y[None])
        (l / len(X)).backward()
    o.step()
