# finds: warning hooks-pile-up x 1/4
# notes: hook-scales
"""A callback at the start of each epoch registers the hooks anew."""

import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)


class T:
    def __init__(s):
        s.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        s.opt = torch.optim.Adam(s.net.parameters(), 1e-3)

    def on_epoch_start(s):
        for n, p in s.net.named_parameters():
            if n.startswith("0"):
                p.register_hook(lambda g: g * 0.5)  # <- here

    def fit(s):
        for e in range(2):
            s.on_epoch_start()
            for i in range(3):
                s.opt.zero_grad()
                F.cross_entropy(s.net(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
                s.opt.step()


T().fit()
