"""What happens to a gradient after the loss: clips, scalers, edits, hooks."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.recorded import explain, weights
from tests.analysis.scripts import EIGHTH, Line, data, train, verdicts

# What happens to the buffer.


def test_clipping_once_scales_every_item_alike(tmp_path: Path) -> None:
    norms: list[float] = []

    def clip(model: nn.Module) -> None:
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))

    found = explain(train(8, 8, before_step=clip), tmp_path)
    coefficient = 0.1 / (norms[0] + 1e-6)

    assert [items for items, _ in weights(found)] == [8, 8]
    for _, weight in weights(found):
        assert math.isclose(float(weight), coefficient / 8, rel_tol=1e-6)
    assert verdicts(found, "backward calls") == ["SUM"]


def test_clipping_each_micro_batch_weighs_them_unequally(tmp_path: Path) -> None:
    norms: list[float] = []

    def clip(model: nn.Module) -> None:
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))

    found = explain(train(8, 8, after_call=clip), tmp_path)
    second = 0.1 / (norms[1] + 1e-6)
    first = second * 0.1 / (norms[0] + 1e-6)

    assert [float(w) for _, w in weights(found)] == pytest.approx([first / 8, second / 8], rel=1e-6)
    assert verdicts(found, "backward calls") == ["UNEQUAL"]


def test_clipping_by_value_is_no_factor(tmp_path: Path) -> None:
    def clip(model: nn.Module) -> None:
        nn.utils.clip_grad_value_(model.parameters(), 1e-3)

    found = explain(train(8, before_step=clip), tmp_path)

    assert weights(found) == [(8, None)]
    assert "clipped by value" in found.verdict.words
    assert "not known" in found.verdict.words


def test_a_loss_scale_and_its_unscaling_cancel(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        x, y = data(8)
        scaler.scale(F.mse_loss(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()

    found = explain(script, tmp_path)

    assert weights(found) == [(8, EIGHTH)]
    factors = [f.value for row in found.ledger.rows for f in (*row.loss, *row.after)]
    assert factors == [65536, EIGHTH, Fraction(1, 65536)]


def test_clipping_before_unscaling_is_seen(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        x, y = data(8)
        scaler.scale(F.mse_loss(model(x), y)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)

    found = explain(script, tmp_path)

    assert verdicts(found, "afterwards")[1] == "x 1/65536"
    assert float(found.ledger.norm) == pytest.approx(1 / 65536, rel=1e-4)


def test_a_gradient_that_was_replaced_by_another_is_not_a_factor(tmp_path: Path) -> None:
    def replace(model: nn.Module) -> None:
        model.w.grad = torch.randn_like(model.w)

    found = explain(train(8, before_step=replace), tmp_path)

    assert weights(found) == [(8, None)]


def test_a_gradient_removed_by_hand_starts_anew(tmp_path: Path) -> None:
    emptied = []

    def remove(model: nn.Module) -> None:
        if not emptied:
            emptied.append(True)
            model.w.grad = None

    found = explain(train(8, 4, after_call=remove), tmp_path)

    assert weights(found) == [(4, Fraction(1, 4))]
    assert found.ledger.history.emptied == "by hand"


# Hooks and functions of the user's.


def test_a_hook_on_a_parameter_scales(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        model.w.register_hook(lambda g: g * 0.25)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        F.mse_loss(model(x), y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert weights(found) == [(8, Fraction(1, 32))]
    assert verdicts(found, "afterwards") == ["x 1/4"]


def test_a_hook_that_clamps_is_no_factor(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        model.w.register_hook(lambda g: g.clamp(-0.01, 0.01))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        F.mse_loss(model(x), y).backward()
        optimizer.step()

    assert weights(explain(script, tmp_path)) == [(8, None)]


def test_a_hook_after_accumulation_scales_all_that_is_there(tmp_path: Path) -> None:
    def halve(leaf: Tensor) -> None:
        leaf.grad.mul_(0.5)

    def script() -> None:
        model = Line()
        model.w.register_post_accumulate_grad_hook(halve)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            x, y = data(8)
            F.mse_loss(model(x), y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert weights(found) == [(8, Fraction(1, 32)), (8, Fraction(1, 16))]
    assert verdicts(found, "backward calls") == ["UNEQUAL"]


def test_a_hook_on_one_branch_is_no_single_factor(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        a, b = model(x), model(2 * x)
        b.register_hook(lambda g: g * 3)
        F.mse_loss(a * b, y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert weights(found) == [(8, None)]
    assert "part" in found.ledger.rows[0].unknown


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


def test_a_reversed_gradient_weighs_its_items_with_the_other_sign(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        F.mse_loss(Reverse.apply(model(x)), y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert verdicts(found, "afterwards") == ["x -1"]
    assert weights(found) == [(8, -EIGHTH)]
    assert [note.kind for note in found.notes] == ["function"]


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, y):
        ctx.save_for_backward(p, y)
        return ((p - y) ** 2).mean()

    @staticmethod
    def backward(ctx, g):
        p, y = ctx.saved_tensors
        return g * 2 * (p - y) / p.numel(), None


def test_an_opaque_loss_is_not_guessed(tmp_path: Path) -> None:
    found = explain(train(8, loss=Own.apply), tmp_path)

    assert [weight for _, weight in weights(found)] == [None]
    assert "opaque" in found.verdict.words


def test_a_leaf_that_is_frozen_when_the_backward_comes_gets_nothing_of_it(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        F.mse_loss(model(x), y).backward()
        loss = F.mse_loss(model(x), y)
        model.w.requires_grad_(False)
        loss.backward()
        model.w.requires_grad_()
        optimizer.step()

    assert weights(explain(script, tmp_path)) == [(8, EIGHTH)]


def shrink(leaf: Tensor) -> None:
    assert leaf.grad is not None
    leaf.grad.mul_(0.5)


def hooked_twice(
    hook: Callable[[Tensor], Tensor | None], after: bool = False
) -> Callable[[], None]:
    """Two leaves with the same hook; the gradient of the second is zero: the sum of a softmax."""

    def script() -> None:
        u = torch.ones(8, requires_grad=True)
        w = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.SGD([u, w], lr=0.1)
        for leaf in (u, w):
            if after:
                leaf.register_post_accumulate_grad_hook(shrink)
            else:
                leaf.register_hook(hook)
        (u.mean() + w.softmax(0).mean()).backward()
        optimizer.step()

    return script


def test_a_hook_that_changes_others_leaves_a_gradient_of_zero_without_a_factor(
    tmp_path: Path,
) -> None:
    found = explain(hooked_twice(lambda gradient: gradient * 0.5), tmp_path)

    assert [weight for _, weight in weights(found)] == [None]
    assert "1 hook on a gradient of zero, whose factor does not show" in found.verdict.words


def test_a_hook_that_only_looks_leaves_the_weights_known(tmp_path: Path) -> None:
    found = explain(hooked_twice(lambda gradient: None), tmp_path)

    assert weights(found) == [(4, Fraction(1, 4))]


def test_a_hook_after_accumulation_on_a_gradient_of_zero_has_no_factor(tmp_path: Path) -> None:
    found = explain(hooked_twice(lambda gradient: None, after=True), tmp_path)

    assert [weight for _, weight in weights(found)] == [None]
