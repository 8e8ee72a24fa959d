"""An optimizer around an optimizer."""

import torch


class Lookahead(torch.optim.Optimizer):
    def __init__(s, base, k=2):
        s.base = base
        s.param_groups = base.param_groups
        s.k = k
        s.n = 0
        s.slow = [[p.clone().detach() for p in g["params"]] for g in base.param_groups]
        s.defaults = base.defaults
        s.state = base.state

    def step(s, closure=None):
        l = s.base.step(closure)
        s.n += 1
        if s.n % s.k == 0:
            for g, sl in zip(s.param_groups, s.slow):
                for p, q in zip(g["params"], sl):
                    q.add_(0.5 * (p.data - q))
                    p.data.copy_(q)
        return l

    def zero_grad(s):
        s.base.zero_grad()


torch.manual_seed(0)
m = torch.nn.Linear(3, 1)
o = Lookahead(torch.optim.Adam(m.parameters()))
for i in range(4):
    o.zero_grad()
    (m(torch.randn(8, 3)) - 3).pow(2).mean().backward()
    o.step()
