# finds: warning broadcast-loss
"""Plain tensors and a Huber loss by hand."""

import torch

torch.manual_seed(0)
X = torch.randn(20, 3)
t = X @ torch.tensor([1.0, 2.0, 3.0])
W = torch.zeros(3, 1, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
opt = torch.optim.SGD([W, b], lr=0.1)


def huber(r, d=1.0):
    a = r.abs()
    return torch.where(a < d, 0.5 * r**2, d * (a - 0.5 * d))


for i in range(5):
    pred = X @ W + b
    res = pred - t  # <- here
    loss = huber(res).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
