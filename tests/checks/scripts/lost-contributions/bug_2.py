# finds: warning lost-contributions
"""Accumulation that starts anew in each epoch."""

import torch

torch.manual_seed(0)
m = torch.nn.Linear(3, 1)
o = torch.optim.Adam(m.parameters())


class T:
    def train(s, epochs=3, nb=5, acc=2):
        last = -1
        for e in range(epochs):
            o.zero_grad()  # <- here
            last = -1
            for ni in range(nb):
                (m(torch.randn(4, 3)) ** 2).mean().div(acc).backward()
                if ni - last >= acc:
                    o.step()
                    o.zero_grad()
                    last = ni


T().train()
