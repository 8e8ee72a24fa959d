"""Labelled and unlabelled items in one loss; saliency at the end."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
o = torch.optim.SGD(m.parameters(), lr=0.1, nesterov=True, momentum=0.9)
for i in range(4):
    xl, yl, xu = torch.randn(4, 4), torch.randint(3, (4,)), torch.randn(12, 4)
    with torch.no_grad():
        p = m(xu).softmax(1)
        conf, lab = p.max(1)
        mask = (conf > 0.4).float()
    loss = (
        F.cross_entropy(m(xl), yl)
        + (F.cross_entropy(m(xu + 0.1 * torch.randn_like(xu)), lab, reduction="none") * mask).mean()
    )
    o.zero_grad()
    loss.backward()
    o.step()
x = torch.randn(1, 4, requires_grad=True)
m(x)[0, 0].backward()
x.grad.abs()
