# finds: warning stepped-twice x 2
"""A callback steps as well."""

import torch


class Cb:
    def after_batch(s, tr):
        tr.opt.step()  # <- here


class Tr:
    def __init__(s):
        s.m = torch.nn.Linear(2, 1)
        s.opt = torch.optim.SGD(s.m.parameters(), lr=0.1)
        s.cbs = [Cb()]

    def run(s):
        for i in range(3):
            s.opt.zero_grad()
            s.m(torch.randn(4, 2)).pow(2).mean().backward()
            s.opt.step()
            for c in s.cbs:
                c.after_batch(s)


torch.manual_seed(0)
Tr().run()
