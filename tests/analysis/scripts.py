"""A model of one weight, data, and a training step to put losses into."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracer.analysis.explain import Explanation

EIGHTH = Fraction(1, 8)


class Line(nn.Module):
    """y = x w, with one weight that the tests look at."""

    def __init__(self, inputs: int = 3, outputs: int = 1) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(inputs, outputs, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def data(n: int, inputs: int = 3, outputs: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(n, inputs, dtype=torch.float64), torch.randn(n, outputs, dtype=torch.float64)


Losses = Callable[[Tensor, Tensor], Tensor]


def train(
    *counts: int,
    loss: Losses = F.mse_loss,
    outputs: int = 1,
    after_call: Callable[[nn.Module], object] = lambda model: None,
    before_step: Callable[[nn.Module], object] = lambda model: None,
    lr: float = 0.1,
) -> Callable[[], None]:
    """A script: a backward call for each count, then one step."""

    def script() -> None:
        model = Line(outputs=outputs)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        optimizer.zero_grad()
        for count in counts:
            x, y = data(count, outputs=outputs)
            loss(model(x), y).backward()
            after_call(model)
        before_step(model)
        optimizer.step()

    return script


def verdicts(found: Explanation, name: str) -> list[str]:
    return [axis.verdict for axis in found.verdict.axes if axis.name == name]


def answers_of(model: nn.Module) -> tuple[Tensor, Tensor]:
    """What the model says of some data, and what it should say."""
    x, y = data(8)
    return model(x), y
