"""Item weights against finite differences: give one item's loss a weight, and see what it moves.

What is consumed is linear in the weight of an item, so the difference that one more of an item
makes is exactly (row's weight) x (that item's own gradient), whatever happened in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.analysis.recorded import consumed_by, explain, rows_of

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

INPUTS, OUTPUTS = 3, 4

Reduce = Callable[[Tensor], Tensor]
Touch = Callable[[nn.Module], object]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(INPUTS, OUTPUTS, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w)


def nothing(model: nn.Module) -> None:
    """Leaves the model alone."""


@dataclass
class Case:
    """A training step: a call for each count, each with the same reduction of its item losses."""

    name: str
    reduce: Reduce
    counts: tuple[int, ...] = (5,)
    fused: Callable[[Tensor, Tensor], Tensor] | None = None
    per_call: tuple[float, ...] = ()
    prepare: Touch = nothing
    after_call: Touch = nothing
    before_step: Touch = nothing
    through: Callable[[nn.Module, Tensor], Tensor] = field(default=lambda model, x: model(x))

    def script(self, more_of: tuple[int, int] | None = None) -> Callable[[], None]:
        """The step; with `more_of`, one item (call, place) has a weight of 2 instead of 1."""

        def run() -> None:
            model = made(self)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for call, count in enumerate(self.counts):
                x, y = batch(count)
                self.backward(call, self.through(model, x), y, more_of)
                self.after_call(model)
            self.before_step(model)
            optimizer.step()

        return run

    def backward(self, call: int, p: Tensor, y: Tensor, more_of: tuple[int, int] | None) -> None:
        if more_of is None and self.fused is not None:
            loss = self.fused(p, y)
        else:
            each = (p - y).square()
            if more_of is not None:
                weights = torch.ones_like(each)
                if more_of[0] == call:
                    weights.view(-1)[more_of[1]] += 1
                each = each * weights
            loss = self.reduce(each)
        if self.per_call:
            loss = loss * self.per_call[call]
        loss.backward()

    def own(self, call: int, place: int) -> Tensor:
        """The gradient of one item's loss, by itself and untouched."""
        model = made(self, touched=False)
        found = torch.empty(0)
        for number, count in enumerate(self.counts):
            x, y = batch(count)
            if number == call:
                each = (model(x) - y).square().view(-1)[place]
                (found,) = torch.autograd.grad(each, [model.w])
        return found


_models: list[Model] = []


def made(case: Case, touched: bool = True) -> Model:
    torch.manual_seed(1)
    model = Model()
    _models[:] = [model]
    if touched:
        case.prepare(model)
    return model


def batch(count: int) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(count, INPUTS, dtype=torch.float64),
        torch.randn(count, OUTPUTS, dtype=torch.float64),
    )


def edit(by: float) -> Touch:
    def apply(model: nn.Module) -> None:
        model.w.grad.mul_(by)

    return apply


def hooked(by: float) -> Touch:
    def apply(model: nn.Module) -> None:
        model.w.register_hook(lambda g: g * by)

    return apply


def hooked_after(by: float) -> Touch:
    def apply(model: nn.Module) -> None:
        def hook(leaf: Tensor) -> None:
            leaf.grad.mul_(by)

        model.w.register_post_accumulate_grad_hook(hook)

    return apply


def module_hook(by: float) -> Touch:
    def apply(model: nn.Module) -> None:
        model.register_full_backward_hook(lambda m, gi, go: None)
        model.register_full_backward_pre_hook(lambda m, go: tuple(g * by for g in go))

    return apply


def mse(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, y: F.mse_loss(p, y, reduction=reduction)


def first_rows_count_less(each: Tensor) -> Tensor:
    return each[:2].mean() * 0.25 + each[2:].mean()


def in_a_loop(each: Tensor) -> Tensor:
    total = each.new_zeros(())
    for row in each:
        total = total + row.mean()
    return total / len(each)


def reentrant(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(model, x.requires_grad_(), use_reentrant=True)


def frugal(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(model, x, use_reentrant=False)


CASES = [
    Case("mean", torch.mean),
    Case("fused mean", torch.mean, fused=mse("mean")),
    Case("sum", torch.sum),
    Case("fused sum", torch.sum, fused=mse("sum")),
    Case("huber", lambda e: e.mean(), fused=None, counts=(1,)),
    Case("mean of sums", lambda e: e.sum(1).mean()),
    Case("sum of means", lambda e: e.mean(1).sum()),
    Case("mean of means", lambda e: e.mean(0).mean()),
    Case("sum over a count", lambda e: e.sum() / e.numel()),
    Case("sum over samples", lambda e: e.sum() / len(e)),
    Case("scaled before", lambda e: (0.5 * e).mean()),
    Case("scaled after", lambda e: 0.5 * e.mean()),
    Case("divided item by item", lambda e: (e / e.numel()).sum()),
    Case("negated twice", lambda e: (e.mean().neg()).neg()),
    Case("flattened", lambda e: e.flatten().mean()),
    Case("transposed", lambda e: e.t().mean()),
    Case("a part is left out", lambda e: torch.cat([e[:2], e[2:]]).mean()),
    Case("three calls", torch.mean, counts=(4, 4, 4)),
    Case("three calls over three", lambda e: e.mean() / 3, counts=(4, 4, 4)),
    Case("three ragged calls", torch.mean, counts=(5, 3, 1)),
    Case("ragged sums", lambda e: e.sum() / 36, counts=(5, 3, 1)),
    Case("weighted calls", torch.mean, counts=(4, 4), per_call=(1.0, 0.25)),
    Case("edited before the step", torch.mean, counts=(4, 4), before_step=edit(0.25)),
    Case("edited after each call", torch.mean, counts=(4, 4, 4), after_call=edit(0.5)),
    Case("edited by an odd number", torch.mean, counts=(4, 4), before_step=edit(0.3711)),
    Case("hook", torch.mean, counts=(4, 4), prepare=hooked(0.125)),
    Case("negative hook", torch.mean, prepare=hooked(-2.0)),
    Case("hook after accumulation", torch.mean, counts=(4, 4, 4), prepare=hooked_after(0.5)),
    Case("module hook", torch.mean, counts=(4, 4), prepare=module_hook(3.0)),
    Case("hook, edit, division", lambda e: e.mean() / 2, counts=(6, 2), prepare=hooked(4.0),
         before_step=edit(1 / 3)),
    Case("reentrant checkpoint", torch.mean, counts=(4, 4), through=reentrant),
    Case("checkpoint", torch.mean, counts=(4, 4), through=frugal),
    Case("checkpoint with a hook", torch.mean, through=reentrant, prepare=hooked(0.5)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_more_of_an_item_moves_what_its_row_says(case: Case, tmp_path: Path) -> None:
    found = explain(lambda: case.script()(), tmp_path)
    plain = consumed_by(case.script(), lambda: _models[0].w)
    rows = rows_of(found)

    assert len(rows) == len(case.counts)
    for call, row in enumerate(rows):
        for place in (0, row.items - 1):
            more = consumed_by(case.script((call, place)), lambda: _models[0].w)
            assert row.weight is not None
            torch.testing.assert_close(
                more - plain, float(row.weight) * case.own(call, place), rtol=2e-6, atol=1e-12
            )


def test_items_that_weigh_differently_in_one_call(tmp_path: Path) -> None:
    case = Case("two groups", first_rows_count_less)
    found = explain(case.script(), tmp_path)
    plain = consumed_by(case.script(), lambda: _models[0].w)

    weights = {row.items: row.weight for row in rows_of(found)}
    for place, items in ((0, 2 * OUTPUTS), (2 * OUTPUTS, 3 * OUTPUTS)):
        more = consumed_by(case.script((0, place)), lambda: _models[0].w)
        expected = float(weights[items]) * case.own(0, place)
        torch.testing.assert_close(more - plain, expected, rtol=2e-6, atol=1e-12)


def test_a_loop_over_samples(tmp_path: Path) -> None:
    case = Case("loop", in_a_loop)
    found = explain(case.script(), tmp_path)
    plain = consumed_by(case.script(), lambda: _models[0].w)

    assert len(rows_of(found)) == 5
    for row in rows_of(found):
        more = consumed_by(case.script((0, 7)), lambda: _models[0].w)
        expected = float(row.weight) * case.own(0, 7)
        torch.testing.assert_close(more - plain, expected, rtol=2e-6, atol=1e-12)
