"""Chunks of a sequence, divided by its whole length."""

import torch, torch.nn as nn

torch.manual_seed(0)
c = nn.LSTMCell(2, 4)
h = nn.Linear(4, 1)
o = torch.optim.Adam([*c.parameters(), *h.parameters()])
for i in range(3):
    o.zero_grad()
    st = (torch.zeros(3, 4), torch.zeros(3, 4))
    tot = 0
    for t in range(6):
        st = c(torch.randn(3, 2), st)
        tot = tot + (h(st[0]) - 1).pow(2).mean()
        if t % 3 == 2:
            (tot / 6).backward()
            tot = 0
            st = tuple(x.detach() for x in st)
    o.step()
