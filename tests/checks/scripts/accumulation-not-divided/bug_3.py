# finds: warning accumulation-not-divided x 4
"""Optimisation by hand around a module with a training step."""

import torch, torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class Module(nn.Module):
    def __init__(s):
        super().__init__()
        s.l = nn.Linear(3, 1)

    def training_step(s, b):
        x, y = b
        return nn.functional.mse_loss(s.l(x), y)


def fit(m, dl, acc):
    opt = torch.optim.SGD(m.parameters(), lr=0.05)
    for ep in range(2):
        for i, b in enumerate(dl):
            m.training_step(b).backward()  # <- here
            if (i + 1) % acc == 0 or i + 1 == len(dl):
                opt.step()
                opt.zero_grad()


torch.manual_seed(0)
fit(Module(), DataLoader(TensorDataset(torch.randn(36, 3), torch.randn(36, 1)), batch_size=4), 4)
