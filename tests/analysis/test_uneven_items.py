"""Items that weigh differently in one reduction, against d(loss)/d(item) of the reduction alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.recorded import explain, rows_of, weights
from tests.analysis.scripts import Line, data, train, verdicts

OWN = torch.tensor([1.0, 2.0, 1.0, 0.5, 0.5, 1.0], dtype=torch.float64)
TASKS = torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=torch.float64)
LENGTHS = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
MASK = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)


@dataclass
class Case:
    """A reduction of item losses of a shape; by hand what its items weigh, and the answer."""

    name: str
    shape: tuple[int, ...]
    reduce: Callable[[Tensor], Tensor]
    items: int
    least: float
    largest: float
    words: str


def by_group(v: Tensor) -> Tensor:
    """The mean of the means of groups of 3, 2 and 1."""
    groups = F.one_hot(torch.tensor([0, 0, 0, 1, 1, 2])).to(v.dtype)
    return ((groups.T @ v) / groups.sum(0)).mean()


def step_by_step(v: Tensor) -> Tensor:
    """A loop over time that ends in the mean of each sequence's mean."""
    total = v.new_zeros(3)
    for t in range(3):
        total = total - (-v[:, t]) * MASK[:, t]
    return (total / LENGTHS).mean()


CASES = [
    Case("weights divided by their sum", (6,), lambda v: (v * OWN).sum() / OWN.sum(),
         6, 1 / 12, 1 / 3, "the weighted mean over 6 items, which weigh 1/12 to 1/3, max/min 4"),
    Case("dot", (6,), lambda v: v @ (OWN / 6),
         6, 1 / 12, 1 / 3, "the weighted mean over 6 items, which weigh 1/12 to 1/3, max/min 4"),
    Case("task weights after a mean", (6, 4), lambda v: (v.mean(0) * TASKS).sum(),
         24, 1 / 24, 1 / 6,
         "unequal weights, 2 together: 24 items, which weigh 1/24 to 1/6, max/min 4"),
    Case("task weights as a product", (6, 4), lambda v: v.mean(0) @ TASKS,
         24, 1 / 24, 1 / 6,
         "unequal weights, 2 together: 24 items, which weigh 1/24 to 1/6, max/min 4"),
    Case("each divided by its length", (3,), lambda v: (v / LENGTHS).mean(),
         3, 1 / 9, 1 / 3,
         "unequal weights, 11/18 together: 3 items, which weigh 1/9 to 1/3, max/min 3"),
    Case("mean of sequence means", (3, 3), lambda v: ((v * MASK).sum(1) / MASK.sum(1)).mean(),
         6, 1 / 9, 1 / 3, "the weighted mean over 6 items, which weigh 1/9 to 1/3, max/min 3"),
    Case("the same with a filled mask", (3, 3),
         lambda v: (v.masked_fill(MASK == 0, 0).sum(1) / MASK.sum(1)).mean(),
         6, 1 / 9, 1 / 3, "the weighted mean over 6 items, which weigh 1/9 to 1/3, max/min 3"),
    Case("groups by a product", (6,), by_group,
         6, 1 / 9, 1 / 3, "the weighted mean over 6 items, which weigh 1/9 to 1/3, max/min 3"),
    Case("negated", (6,), lambda v: -(v @ (OWN / 6)), 6, -1 / 3, -1 / 12,
         "minus the weighted mean over 6 items, which weigh -1/3 to -1/12, max/min 4"),
]  # fmt: skip


def trained(case: Case) -> Callable[[], None]:
    def script() -> None:
        model = Line(outputs=case.shape[1] if len(case.shape) > 1 else 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(case.shape[0], outputs=model.w.shape[1])
        case.reduce((model(x) - y).square().view(case.shape)).backward()
        optimizer.step()

    return script


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_items_weigh_what_the_derivative_of_the_reduction_says(case: Case, tmp_path: Path) -> None:
    found = explain(trained(case), tmp_path)
    items = torch.rand(case.shape, dtype=torch.float64, requires_grad=True)
    (each,) = torch.autograd.grad(case.reduce(items), items)
    each = each[each != 0]

    (row,) = found.ledger.rows
    assert row.is_uneven
    assert row.items == case.items == each.numel()
    assert (row.least, row.largest) == pytest.approx((case.least, case.largest), rel=1e-6)
    assert (case.least, case.largest) == pytest.approx((each.min().item(), each.max().item()))
    assert float(row.total) == pytest.approx(each.sum().item(), rel=1e-6)
    assert found.verdict.words == case.words


def test_a_loop_over_time_is_a_mean_of_means_for_each_step(tmp_path: Path) -> None:
    case = Case("loop", (3, 3), step_by_step, 6, 1 / 9, 1 / 3, "")
    found = explain(trained(case), tmp_path)

    assert sorted(row.items for row in found.ledger.rows) == [1, 2, 3]
    assert sum(float(row.total) for row in found.ledger.rows) == pytest.approx(1)
    (term,) = found.verdict.terms
    assert (term.least, term.largest) == pytest.approx((1 / 9, 1 / 3))


def test_many_items_have_their_largest_weight_only(tmp_path: Path) -> None:
    own = torch.linspace(1, 2, 40, dtype=torch.float64)
    case = Case("many", (40,), lambda v: (v * own).sum() / own.sum(), 40, 0, 0, "")
    found = explain(trained(case), tmp_path)

    (row,) = found.ledger.rows
    assert row.least is None
    assert row.largest == pytest.approx(2 / 60, rel=1e-6)
    assert row.total == 1
    assert found.verdict.words == "the weighted mean over 40 items, which weigh up to 1/30"


# What belongs to the item is said.


def test_a_product_with_data_is_part_of_the_item_and_said(tmp_path: Path) -> None:
    found = explain(train(6, loss=lambda p, y: ((p - y).square()[:, 0] * OWN).mean()), tmp_path)

    assert weights(found) == [(6, Fraction(1, 6))]
    (row,) = found.ledger.rows
    assert row.own is not None
    assert (row.own.least, row.own.largest) == pytest.approx((1 / 12, 1 / 3), rel=1e-6)
    assert "each times a number of its own (line " in found.verdict.words
    assert found.verdict.words.endswith(": with it 1/12 to 1/3")


def test_a_product_with_equal_numbers_is_a_factor(tmp_path: Path) -> None:
    third = torch.full((6, 1), 1 / 3, dtype=torch.float64)
    found = explain(train(6, loss=lambda p, y: ((p - y).square() * third).sum()), tmp_path)

    assert weights(found) == [(6, Fraction(1, 3))]


def test_a_turned_sign_is_said(tmp_path: Path) -> None:
    found = explain(train(6, loss=lambda p, y: (-(p - y).square()).mean()), tmp_path)

    assert weights(found) == [(6, Fraction(1, 6))]
    assert "each with its sign turned (line " in found.verdict.words


# Operands of a difference.


def other(p: Tensor, y: Tensor) -> Tensor:
    return F.smooth_l1_loss(p, y, reduction="none")


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (lambda p, y: ((p - y).square() - other(p, y)).mean(), Fraction(-1, 6)),
        (lambda p, y: ((p - y).square() - 2 * other(p, y)).mean(), Fraction(-1, 3)),
        (lambda p, y: ((p - y).square() - 0.5 * other(p, y)).sum(), Fraction(-1, 2)),
        (lambda p, y: (other(p, y) - (p - y).square()).mean(), Fraction(1, 6)),
        (lambda p, y: torch.sub((p - y).square(), other(p, y), alpha=3).mean(), Fraction(-1, 2)),
        (lambda p, y: torch.add((p - y).square(), other(p, y), alpha=3).mean(), Fraction(1, 2)),
        (lambda p, y: (1 - 2 * other(p, y)).mean(), Fraction(1, 3)),
    ],
)
def test_an_operand_of_a_difference_keeps_its_sign_and_factor(
    loss: Callable[[Tensor, Tensor], Tensor], weight: Fraction, tmp_path: Path
) -> None:
    found = explain(train(6, loss=loss), tmp_path)
    lines = {row.term.items: row.weight for row in found.ledger.rows}

    assert weight in lines.values()


# Products and single values.


def test_a_scalar_product_is_a_sum_of_products(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        e = (p - y)[:, 0]
        return torch.einsum("i,i->", e, e) / 6

    found = explain(train(6, loss=loss), tmp_path)

    assert weights(found) == [(6, Fraction(1, 6))]
    assert found.verdict.words == "the mean over all 6 items"


def test_a_dot_product_in_a_loop(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        total = p.new_zeros(())
        for row in p - y:
            total = total + torch.dot(row, row)
        return total / 6

    found = explain(train(6, outputs=3, loss=loss), tmp_path)

    assert weights(found) == [(3, Fraction(1, 6))] * 6


@pytest.mark.parametrize("name", ["norm", "var", "std", "logsumexp"])
def test_what_is_no_sum_of_items_says_so(name: str, tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        e = (p - y).flatten()
        return e.logsumexp(0) if name == "logsumexp" else getattr(e, name)()

    found = explain(train(6, loss=loss), tmp_path)

    assert verdicts(found, "items") == ["one"]
    assert found.verdict.words == f"the loss's own gradient ({name} of 6 elements: no sum of items)"


def test_single_values_added_in_a_loop_are_counted(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, loss = torch.randn(6, 3, dtype=torch.float64), torch.zeros(())
        for i in range(6):
            loss = loss - F.log_softmax(model(x[i]), -1)[i % 4]
        (loss / 6).backward()
        optimizer.step()

    for name in ("weight", "bias"):
        found = explain(script, tmp_path, name)
        assert weights(found) == [(6, Fraction(-1, 6))]
        assert found.verdict.words == "minus the mean of 6 losses"


def test_single_elements_in_a_loop_are_counted(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 1).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, loss = torch.randn(6, 3, dtype=torch.float64), torch.zeros(())
        for i in range(6):
            loss = loss + (model(x[i]) ** 2).squeeze() / 6
        loss.backward()
        optimizer.step()

    for name in ("weight", "bias"):
        assert weights(explain(script, tmp_path, name)) == [(6, Fraction(1, 6))]


# Numbers that the model itself multiplies with.


def test_losses_stacked_and_multiplied_keep_their_own_items(tmp_path: Path) -> None:
    class Tasks(Line):
        def __init__(self) -> None:
            super().__init__(outputs=2)
            self.s = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def script() -> None:
        model = Tasks()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(6, outputs=2)
        e = model(x) - y
        losses = torch.stack([F.mse_loss(e[:, 0], y[:, 0]), F.l1_loss(e[:, 1], y[:, 1])])
        (torch.exp(-model.s) * losses + model.s).sum().backward()
        optimizer.step()

    found = rows_of(explain(script, tmp_path))

    assert sorted(float(row.weight) for row in found) == pytest.approx(
        [2.718281828459045**-0.3 / 6, 2.718281828459045**0.2 / 6], rel=1e-6
    )


# A gradient that backward was given.


def test_a_gradient_of_unequal_elements_at_the_root(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(5)
        given = torch.tensor([1.0, 2, 0, 1, 1], dtype=torch.float64)
        (model(x) - y).square()[:, 0].backward(gradient=given)
        optimizer.step()

    (row,) = explain(script, tmp_path).ledger.rows

    assert (row.items, row.masked, row.total) == (4, 1, 5)
    assert (row.least, row.largest) == (1, 2)


# Samples.


def test_samples_that_are_columns_are_not_taken_for_rows(tmp_path: Path) -> None:
    def script() -> None:
        w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1)
        x, y = torch.randn(4, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
        (w @ x - y).square().mean().backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert found.ledger.rows[0].samples is None
    assert found.verdict.words == "the mean over all 30 items"


# Counts.


def test_what_a_mask_left_out_is_counted_over_all_reductions(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for ignored in (2, 3):
            y = torch.tensor([0, 1, 2, 3, 0, 1])
            y[:ignored] = -100
            x = torch.randn(6, 3, dtype=torch.float64)
            F.cross_entropy(model(x), y, reduction="sum").backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")
    axis = next(axis for axis in found.verdict.axes if axis.name == "items")

    assert axis.words.endswith("5 more left out by a mask")


def test_a_weighted_mean_does_not_say_that_items_are_equal(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        of_classes = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        F.cross_entropy(model(data(6)[0]), y, weight=of_classes).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")
    (term,) = found.verdict.terms
    axis = next(axis for axis in found.verdict.axes if axis.name == "items")

    assert axis.words == "6 items, 1/13 x its own weight each"
    assert term.words == "the weighted mean over 6 items, which weigh up to 4/13"
    assert (term.kind, term.weight, term.ratio) == ("weighted", None, None)
    assert term.largest == pytest.approx(4 / 13)


# Weights given to a fused loss, and changes behind it.


def test_weights_of_a_fused_binary_loss_are_said(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(p[:, 0], y[:, 0].sigmoid(), weight=OWN)

    found = explain(train(6, loss=loss), tmp_path)

    assert weights(found) == [(6, Fraction(1, 6))]
    assert "each times a number of its own" in found.verdict.words


def test_a_fused_binary_loss_without_weights_has_plain_items(tmp_path: Path) -> None:
    def loss(p: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(p, y.sigmoid())

    assert explain(train(6, loss=loss), tmp_path).verdict.words == "the mean over all 6 items"


def test_class_weights_in_a_sum_are_said(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        of_classes = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        loss = F.cross_entropy(model(data(6)[0]), y, weight=of_classes, reduction="sum")
        (loss / 6).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert weights(found) == [(6, Fraction(1, 6))]
    assert "each times a number of its own" in found.verdict.words


def test_items_are_told_though_the_buffer_was_changed_beyond_a_factor(tmp_path: Path) -> None:
    def noise(model: nn.Module) -> None:
        model.w.grad += torch.randn_like(model.w)

    found = explain(train(8, before_step=noise), tmp_path)

    assert verdicts(found, "items") == ["mean"]
    assert verdicts(found, "afterwards") == ["?"]
    assert found.verdict.words == "not known: changed by hand, not by a factor"


def test_uneven_items_are_told_at_the_reduction_without_what_multiplies_the_loss(
    tmp_path: Path,
) -> None:
    def script() -> None:
        model = Line()
        x, y = data(6)
        errors = (model(x) - y).square().mean(1)
        (errors * OWN).mean().div(2).backward()

    found = explain(script, tmp_path)

    axis = next(a for a in found.verdict.axes if a.name == "items")
    assert (axis.words, axis.note) == ("6 items, 1/12 to 1/3 each", "x 1/2 in the loss")
    assert found.verdict.words.endswith("which weigh 1/24 to 1/6, max/min 4")


def test_calls_with_class_weights_say_the_least_and_the_largest_of_their_items(
    tmp_path: Path,
) -> None:
    def script() -> None:
        model = nn.Linear(3, 3).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        of_classes = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
        for y in ([0, 0, 1, 0], [2, 2, 1, 0]):  # 6 and 24 together
            out = model(data(4)[0])
            (F.cross_entropy(out, torch.tensor(y), weight=of_classes) / 2).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert found.verdict.words == ("unequal weights: an item weighs from 1/48 to 1/4, max/min 12")
