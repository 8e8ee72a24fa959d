"""What the lines of a random program may use; they begin with `from tests.trust.parts import *`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

__all__ = [
    "Doubled",
    "F",
    "Scaled",
    "Straight",
    "assign",
    "attempt",
    "batched",
    "checkpointed",
    "constant",
    "double_up",
    "halve",
    "hook",
    "hooked",
    "labels",
    "leaf",
    "look",
    "penalty",
    "reentrant",
    "said",
    "shrink",
    "torch",
    "without_gradient",
]

said: list[str] = []
"""What torch said to the calls of the program that ran last."""


def attempt(call: Callable[[], Any]) -> None:
    """Make a call; what torch says against it is remembered."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the very words must be the same when recorded
        said.append(f"{type(error).__name__}: {error}")


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def labels(logits: Tensor) -> Tensor:
    return torch.arange(len(logits)) % logits.shape[1]


def halve(gradient: Tensor) -> Tensor:
    return gradient * 0.5


def look(gradient: Tensor) -> None:
    """A hook that changes nothing."""


def hook(x: Tensor, call: Callable[[Tensor], Tensor | None]) -> object:
    """Put a hook on a tensor, whose node is looked up before.

    Torch itself dies otherwise (pytorch#196459, from 2.6 to 2.14) if the tensor is a view
    whose base was changed in place: `t = (a * 2).view(3, 2); t[:1] *= 3; t.register_hook(look)`.
    """
    _ = x.grad_fn
    return x.register_hook(call)


def double_up(received: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if one is None else one * 2 for one in received)


def shrink(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(0.5)


def hooked(x: Tensor) -> Tensor:
    y = x * 2
    y.register_hook(halve)
    y.register_hook(look)
    return y + 1


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        factor = x.tanh()
    return x * factor


def constant(x: Tensor) -> Tensor:
    return x * torch.ones_like(x)


def checkpointed(x: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(lambda y: y.tanh() * y, x, use_reentrant=False)


def reentrant(x: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(lambda y: y.tanh() * y, x, use_reentrant=True)


def penalty(x: Tensor, over: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(x.sum(), over, create_graph=True)
    return slope.square().sum() + x.mean()


def batched(x: Tensor, over: Tensor) -> None:
    starts = torch.stack([torch.ones_like(x), torch.zeros_like(x)])
    torch.autograd.grad(x, over, starts, is_grads_batched=True, retain_graph=True)


def assign(x: Tensor, over: Tensor) -> None:
    (over.grad,) = torch.autograd.grad(x.sum(), over, retain_graph=True)


class Scaled(torch.autograd.Function):
    """Its backward scales by a number of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: float) -> Tensor:
        ctx.by = by
        return x * by

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.by, None


class Doubled(torch.autograd.Function):
    """Two outputs; what was not used arrives as None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x * 2, -x

    @staticmethod
    def backward(ctx: Any, first: Tensor | None, second: Tensor | None) -> Tensor | None:
        parts = [2 * first] if first is not None else []
        parts += [-second] if second is not None else []
        return sum(parts[1:], parts[0]) if parts else None


class Straight(torch.autograd.Function):
    """Rounds, and pretends in the backward that it did not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient
