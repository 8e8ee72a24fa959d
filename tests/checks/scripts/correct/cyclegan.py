"""CycleGAN with a batch of one."""

import torch, torch.nn as nn, itertools

torch.manual_seed(0)
A, B = nn.Linear(3, 3), nn.Linear(3, 3)
DA, DB = nn.Linear(3, 1), nn.Linear(3, 1)
og = torch.optim.Adam(itertools.chain(A.parameters(), B.parameters()))
od = torch.optim.Adam(itertools.chain(DA.parameters(), DB.parameters()))


def rq(nets, f):
    for n in nets:
        for p in n.parameters():
            p.requires_grad = f


mse = nn.MSELoss()


def backD(D, r, f):
    p = D(r)
    q = D(f.detach())
    l = (mse(p, torch.ones_like(p)) + mse(q, torch.zeros_like(q))) * 0.5
    l.backward()
    return l


for i in range(3):
    a, b = torch.randn(1, 3), torch.randn(1, 3)
    fb = A(a)
    ra = B(fb)
    fa = B(b)
    rb = A(fa)
    rq([DA, DB], False)
    og.zero_grad()
    l = (
        mse(DB(fb), torch.ones(1, 1))
        + mse(DA(fa), torch.ones(1, 1))
        + 10 * (nn.functional.l1_loss(ra, a) + nn.functional.l1_loss(rb, b))
    )
    l.backward()
    og.step()
    rq([DA, DB], True)
    od.zero_grad()
    backD(DA, a, fa)
    backD(DB, b, fb)
    od.step()
