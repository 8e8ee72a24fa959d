"""Graphs and training loops of all kinds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.analysis.recorded import explain, totals, weights
from tests.analysis.scripts import EIGHTH, Line, answers_of, data, train, verdicts

# Graphs of all kinds.


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_is_transparent(reentrant: bool, tmp_path: Path) -> None:
    def script() -> None:
        first, second = Line(3, 5), Line(5, 1)
        optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
        x, y = data(8)
        x.requires_grad_()
        hidden = checkpoint(first, x, use_reentrant=reentrant)
        F.mse_loss(second(hidden), y).backward()
        optimizer.step()

    assert weights(explain(script, tmp_path, "first.w")) == [(8, EIGHTH)]


def test_a_loss_inside_a_checkpoint(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        x.requires_grad_()
        loss = checkpoint(lambda a: F.mse_loss(model(a), y), x, use_reentrant=True)
        (loss / 2).backward()
        optimizer.step()

    assert weights(explain(script, tmp_path)) == [(8, Fraction(1, 16))]


def test_tied_weights_have_one_row_for_each_site(tmp_path: Path) -> None:
    def script() -> None:
        model = Line(3, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8, outputs=3)
        F.mse_loss(model(model(x)), y).backward()
        optimizer.step()

    assert weights(explain(script, tmp_path)) == [(24, Fraction(1, 24))]


def test_the_discriminator_keeps_what_the_generator_s_call_left(tmp_path: Path) -> None:
    def script() -> None:
        g, d = nn.Linear(2, 3), nn.Linear(3, 1)
        opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        for _ in range(2):
            opt_g.zero_grad()
            d(g(torch.randn(4, 2))).mean().backward()
            opt_g.step()
            real = d(torch.randn(4, 3))
            fake = d(g(torch.randn(4, 2)).detach())
            (fake.mean() - real.mean()).backward()
            opt_d.step()
            opt_d.zero_grad()

    found = explain(script, tmp_path, "d.weight")

    assert sorted(w for _, w in weights(found)) == [Fraction(-1, 4), Fraction(1, 4), Fraction(1, 4)]
    assert verdicts(found, "backward calls") == ["sum"]
    words = next(a.words for a in found.verdict.axes if a.name == "backward calls")
    assert words == "2 calls of different losses, added"


def test_lbfgs_evaluates_its_closure(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
        x, y = data(8)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    found = explain(script, tmp_path)

    assert weights(found) == [(8, EIGHTH)]
    assert found.ledger.history.evaluations > 1


def test_adam_is_known_to_divide(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.Adam(model.parameters())
        F.mse_loss(*answers_of(model)).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert found.optimizer.is_adaptive
    assert weights(found) == [(8, EIGHTH)]


def test_an_optimizer_inside_the_backward_call(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(leaf: Tensor) -> None:
            optimizer.step()
            optimizer.zero_grad()

        model.w.register_post_accumulate_grad_hook(step)
        for _ in range(2):
            F.mse_loss(*answers_of(model)).backward()

    found = explain(script, tmp_path, step=2)

    assert weights(found) == [(8, EIGHTH)]


def test_items_weighted_one_by_one_in_python(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        each = F.mse_loss(p, y, reduction="none").mean(0)
        return each[0] * 1.0 + each[1] * 0.25

    found = explain(train(8, outputs=2, loss=loss), tmp_path)

    assert sorted(weights(found)) == [(8, Fraction(1, 32)), (8, EIGHTH)]


def test_stacked_losses_with_weights_in_a_tensor(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        parts = torch.stack([F.mse_loss(p, y), F.l1_loss(p, y)])
        return torch.dot(parts, torch.tensor([2.0, 0.5], dtype=torch.float64))

    found = explain(train(8, loss=loss), tmp_path)

    assert sorted(weights(found)) == [(8, Fraction(1, 16)), (8, Fraction(1, 4))]


def test_a_loop_of_losses_on_one_line(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        whole = torch.zeros((), dtype=torch.float64)
        for k in range(3):
            whole = whole + F.mse_loss(p[:, k], y[:, k])
        return whole

    found = explain(train(8, outputs=3, loss=loss), tmp_path)

    assert weights(found) == [(8, EIGHTH)] * 3
    assert totals(found) == [3]
