"""Sharpness-aware minimisation as an optimizer around another one, with a closure function."""

import torch
import torch.nn.functional as F
from torch import nn


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base = base(self.param_groups, **options)

    @torch.no_grad()
    def first_step(self):
        self.moves = []
        for group in self.param_groups:
            for p in group["params"]:
                move = p.grad * group["rho"] / (p.grad.norm() + 1e-12)
                p.add_(move)
                self.moves.append((p, move))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p, move in self.moves:
            p.sub_(move)
        self.base.step()
        self.zero_grad()


def loss_of(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


torch.manual_seed(0)
model = nn.Linear(6, 3)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)

for step in range(4):
    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    loss_of(model, x, y)
    optimizer.first_step()
    loss_of(model, x, y)
    optimizer.second_step()
