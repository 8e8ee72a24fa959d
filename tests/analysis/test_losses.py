"""Losses of all kinds, and what their items weigh."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tracer
from tests.analysis.recorded import explain, totals, weights
from tests.analysis.scripts import EIGHTH, Line, data, train, verdicts
from tracer.analysis.explain import Explainer
from tracer.views.explain import Lines, answers_text, term_label
from tracer.views.terminal import Ink

# Losses.


def classify(**options: object) -> Callable[[], None]:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(6, 3, dtype=torch.float64)
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        if "ignored" in options:
            y[:2] = -100
        kept = {k: v for k, v in options.items() if k != "ignored"}
        F.cross_entropy(model(x), y, **kept).backward()
        optimizer.step()

    return script


def test_ignored_targets_do_not_count(tmp_path: Path) -> None:
    found = explain(classify(ignored=True), tmp_path, "weight")

    assert weights(found) == [(4, Fraction(1, 4))]
    assert found.ledger.rows[0].masked == 2
    assert found.verdict.words == "the mean over all 4 items"


def test_all_targets_ignored(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(torch.randn(6, 3)), torch.full((6,), -100)).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert [weight for _, weight in weights(found)] == [None]


def test_a_weighted_mean_says_so(tmp_path: Path) -> None:
    class_weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = explain(classify(weight=class_weights), tmp_path, "weight")

    assert verdicts(found, "items") == ["weighted mean"]
    assert totals(found) == [1]
    (row,) = found.ledger.rows
    assert row.weight == Fraction(1, 13)
    assert row.largest == pytest.approx(4 / 13)


def test_a_masked_loss_divided_by_what_it_kept(tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0], dtype=torch.float64)[:, None]
    found = explain(
        train(8, loss=lambda p, y: ((p - y).square() * mask).sum() / mask.sum()), tmp_path
    )

    assert weights(found) == [(5, Fraction(1, 5))]
    assert found.ledger.rows[0].masked == 3
    assert found.verdict.words == "the mean over all 5 items"


def test_a_masked_loss_divided_by_everything(tmp_path: Path) -> None:
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0], dtype=torch.float64)[:, None]
    found = explain(train(8, loss=lambda p, y: ((p - y).square() * mask).mean()), tmp_path)

    assert weights(found) == [(5, EIGHTH)]
    assert totals(found) == [Fraction(5, 8)]


def test_weights_of_the_user_belong_to_the_item(tmp_path: Path) -> None:
    mine = torch.rand(8, 1, dtype=torch.float64)
    found = explain(train(8, loss=lambda p, y: ((p - y).square() * mine).mean()), tmp_path)

    assert weights(found) == [(8, EIGHTH)]


def test_terms_have_their_own_weights(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        first = F.mse_loss(p, y)
        second = F.l1_loss(p, y, reduction="sum")
        return first + 0.05 * second

    found = explain(train(8, loss=loss), tmp_path)

    assert sorted(weights(found)) == [(8, Fraction(1, 20)), (8, EIGHTH)]


def test_a_loss_that_is_used_twice_counts_twice(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        single = F.mse_loss(p, y)
        return single + single

    assert weights(explain(train(8, loss=loss), tmp_path)) == [(8, Fraction(1, 4))]


def test_an_average_inside_the_network_is_none_of_the_loss(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(4, 1, 5, 5)).sum().backward()
        optimizer.step()

    assert weights(explain(script, tmp_path, "0.weight")) == [(8, 1)]


def test_a_loss_inside_the_model(tmp_path: Path) -> None:
    class WithLoss(Line):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(super().forward(x), y)

    def script() -> None:
        model = WithLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        (model(*data(8)) / 2).backward()
        optimizer.step()

    assert weights(explain(script, tmp_path)) == [(8, Fraction(1, 16))]


def test_a_root_mean_square_is_measured(tmp_path: Path) -> None:
    found = explain(train(8, loss=lambda p, y: F.mse_loss(p, y).sqrt()), tmp_path)
    torch.manual_seed(0)
    model = Line()
    x, y = data(8)
    size = F.mse_loss(model(x), y).sqrt().item()

    ((items, weight),) = weights(found)
    assert items == 8
    assert float(weight) == pytest.approx(1 / (2 * size) / 8, rel=1e-6)


def test_the_lesser_of_two_losses_is_one_reduction(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.no_grad():
            model.weight.fill_(1.0)
        given = torch.tensor([[[1.0], [1.0], [4.0], [2.0]], [[2.0], [3.0], [1.0], [5.0]]])
        both = [model(x) for x in given]
        torch.cat(both, dim=1).min(dim=1).values.mean().backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    (items,) = [axis for axis in found.verdict.axes if axis.name == "items"]
    assert items.words == "4 items, 1/4 each, in parts of 1, 3"
    assert found.verdict.words == "the mean over all 4 items"


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh()


def test_losses_of_one_line_are_told_by_who_called_for_their_items(tmp_path: Path) -> None:
    """A critic's `real.mean() - fake.mean()`, whose items come from one line of its `forward`."""
    torch.manual_seed(0)
    with tracer.Recorder(tmp_path / "run.trace"):
        critic = Critic()
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        real = critic(torch.randn(4, 3))
        fake = critic(torch.randn(4, 3))
        (fake.mean() - real.mean()).backward()
        optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        terms = Explainer(trace).parameter("inner.weight", None)[-1].verdict.terms
        labels = [term_label(term, terms, Lines(trace)) for term in terms]

    assert labels == ["real = critic(torch.randn(4, 3))", "fake = critic(torch.randn(4, 3))"]


def test_an_answer_for_parameters_of_two_losses_names_both_lines(tmp_path: Path) -> None:
    with tracer.Recorder(tmp_path / "run.trace"):
        first, second = (nn.Linear(3, 1, bias=False) for _ in range(2))
        optimizer = torch.optim.SGD([first.weight, second.weight], lr=0.1)
        left = first(torch.randn(4, 3)).square().mean()
        right = second(torch.randn(4, 3)).square().mean()
        (left + right).backward()
        optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        lines = answers_text(Explainer(trace).overview(), trace, Ink(False)).splitlines()

    (items,) = [line for line in lines if line.strip().startswith("items")]
    line = test_an_answer_for_parameters_of_two_losses_names_both_lines.__code__.co_firstlineno
    assert items.endswith(f"test_losses.py:{line + 4}, {line + 5}")
