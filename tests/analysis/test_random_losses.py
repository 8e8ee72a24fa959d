"""Losses put together at random: the weights of all items together are what was consumed.

Each item is an element of `ones @ w`, whose own gradient adds up to 1. So whatever a loss does with
its items, the gradient of `w` adds up to the sum of their weights; no rule is asked for that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.analysis.recorded import explain

Loss = Callable[[Tensor], Tensor]


def to_number(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    """A loss of a tensor of any shape."""
    if t.ndim == 0:
        return on_number(t, rng, depth)
    if depth <= 0 or t.numel() <= 1:
        return rng.choice((torch.mean, torch.sum))(t)
    return rng.choice(STEPS)(t, rng, depth - 1)


def on_number(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    if depth <= 0:
        return t
    return rng.choice([lambda: t / 4, lambda: t / 3, lambda: t + 1.5, lambda: t])()


def reduced(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    dim = rng.randrange(t.ndim)
    smaller = t.mean(dim) if rng.random() < 0.5 else t.sum(dim)
    return to_number(smaller, rng, depth)


def scaled(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(t * rng.choice((0.5, 3.0, -1.0)), rng, depth)


def divided(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(t, rng, depth) / t.numel()


def split(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    parts = t.unbind(0) if rng.random() < 0.5 else t.split(2)
    losses = [to_number(part, rng, depth) for part in parts]
    return sum(losses[1:], losses[0]) / rng.choice((1, len(losses)))


def stacked(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(torch.stack([to_number(row, rng, depth - 1) for row in t]), rng, depth)


def joined(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(torch.cat([t[1:], t[:1]]), rng, depth)


def masked(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    mask = torch.zeros(t.shape, dtype=t.dtype)
    mask.view(-1)[:: rng.choice((2, 3))] = 1
    if rng.random() < 0.5:
        return to_number(t[mask.bool()], rng, depth)
    return to_number(torch.where(mask.bool(), t, torch.zeros_like(t)), rng, depth)


def turned(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(t.flatten() if rng.random() < 0.5 else t.transpose(0, -1), rng, depth)


def several(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    first, second = to_number(t, rng, depth), to_number(t, rng, depth)
    return first + rng.choice((1.0, 0.1, -0.5)) * second


def from_a_constant(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(t - 1, rng, depth)


def rooted(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return (to_number(t, rng, depth) ** 2 + 1).sqrt()


def picked(t: Tensor, rng: random.Random, depth: int) -> Tensor:
    return to_number(t[rng.randrange(len(t))], rng, depth)


STEPS = (
    reduced, reduced, reduced, scaled, divided, split, stacked, joined, masked, turned,
    several, from_a_constant, rooted, picked,
)  # fmt: skip


def script(seed: int) -> Callable[[], None]:
    """One to three calls of different sizes, perhaps an edit, perhaps a hook, then a step."""

    def run() -> None:
        rng = random.Random(seed)
        w = torch.linspace(0.5, 1.5, 4, dtype=torch.float64).view(1, 4).requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.1)
        shape, hook = rng.getrandbits(30), rng.random() < 0.2
        if hook:
            w.register_hook(lambda g: g * 0.5)
        for _ in range(rng.choice((1, 1, 2, 3))):
            items = torch.ones(rng.choice((2, 4, 5)), 1, dtype=torch.float64) @ w
            to_number(items, random.Random(shape), 4).backward()
        if rng.random() < 0.3:
            w.grad /= 3
        optimizer.step()

    return run


@pytest.mark.parametrize("start", range(0, 300, 25))
def test_the_weights_of_all_items_are_what_was_consumed(start: int, tmp_path: Path) -> None:
    told = 0
    for seed in range(start, start + 25):
        found = explain(script(seed), tmp_path)
        rows, content = found.ledger.rows, found.ledger.history.content
        if any(row.weight is None or not row.reductions for row in rows):
            continue  # not known, or a value that was one to begin with: not made of the items
        told += 1
        values = content.measured.values
        size = sum(abs(value) for value in values)
        total = sum(float(row.weight) * row.items for row in rows)
        assert total == pytest.approx(sum(values), abs=2e-5 * max(size, 1)), f"seed {seed}"
    assert told > 10
