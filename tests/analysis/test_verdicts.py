"""Means, sums and several calls, against what a person works out by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.analysis.recorded import explain, totals, weights
from tests.analysis.scripts import EIGHTH, Line, data, train, verdicts

# Mean and sum.


def test_a_mean_is_a_mean(tmp_path: Path) -> None:
    found = explain(train(8), tmp_path)

    assert weights(found) == [(8, EIGHTH)]
    assert found.verdict.words == "the mean over all 8 items"
    assert verdicts(found, "items") == ["mean"]


def test_a_sum_is_a_sum(tmp_path: Path) -> None:
    found = explain(train(8, loss=lambda p, y: F.mse_loss(p, y, reduction="sum")), tmp_path)

    assert weights(found) == [(8, 1)]
    assert found.verdict.words == "the sum over all 8 items"


def test_a_sum_divided_by_the_count_is_a_mean(tmp_path: Path) -> None:
    found = explain(train(8, loss=lambda p, y: (p - y).square().sum() / 8), tmp_path)

    assert weights(found) == [(8, EIGHTH)]
    assert found.verdict.words == "the mean over all 8 items"


def test_a_sum_of_divided_items_is_a_mean(tmp_path: Path) -> None:
    found = explain(train(8, loss=lambda p, y: ((p - y).square() / 8).sum()), tmp_path)

    assert weights(found) == [(8, EIGHTH)]


def test_elements_are_told_from_samples(tmp_path: Path) -> None:
    found = explain(train(8, outputs=4), tmp_path)

    assert weights(found) == [(32, Fraction(1, 32))]
    assert found.verdict.words == "the mean over all 32 items (8 samples of 4 elements)"


def test_a_sum_over_elements_averaged_over_samples(tmp_path: Path) -> None:
    found = explain(train(8, outputs=4, loss=lambda p, y: (p - y).square().sum(1).mean()), tmp_path)

    assert weights(found) == [(32, EIGHTH)]
    assert verdicts(found, "items") == ["mean of sums"]
    assert "8 samples" in found.verdict.words
    assert "the sum of its 4 elements" in found.verdict.words


def test_a_multiple_of_such_a_mean_is_one_of_samples(tmp_path: Path) -> None:
    found = explain(
        train(8, outputs=4, loss=lambda p, y: 2 * (p - y).square().sum(1).mean()), tmp_path
    )

    assert weights(found) == [(32, Fraction(1, 4))]
    assert found.verdict.words == (
        "2 x the mean over all 8 samples, each the sum of its 4 elements"
    )


def test_what_is_left_out_of_a_whole_is_not_left_out_of_each_part(tmp_path: Path) -> None:
    own = torch.tensor([1.0, 0.0, 1.0, 2.0], dtype=torch.float64)

    def loss(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (torch.stack([(p[i] - y[i]).square().sum() for i in range(4)]) * own).sum()

    found = explain(train(4, loss=loss), tmp_path)

    assert found.verdict.axes[0].words == "1 item, 1 each, in 4 losses of this line"
    assert found.verdict.words == "unequal weights: an item weighs from 0 to 2"


def test_calls_of_summed_samples_weigh_what_a_mean_of_samples_does(tmp_path: Path) -> None:
    found = explain(
        train(8, 8, outputs=4, loss=lambda p, y: 2 * (p - y).square().sum(1).mean()), tmp_path
    )

    assert [a.words for a in found.verdict.axes if a.name == "backward calls"] == [
        "2 calls, x 2 each"
    ]
    assert found.verdict.words == (
        "4 x the mean over all 16 samples, each the sum of its 4 elements"
    )


def test_calls_with_items_of_unequal_weights_are_scaled_alike(tmp_path: Path) -> None:
    lengths = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    found = explain(train(3, 3, loss=lambda p, y: ((p - y)[:, 0].square() / lengths).mean()),
                    tmp_path)  # fmt: skip

    assert [a.words for a in found.verdict.axes if a.name == "backward calls"] == [
        "2 calls, whose items weigh differently"
    ]


def test_successive_means_multiply(tmp_path: Path) -> None:
    found = explain(
        train(8, outputs=4, loss=lambda p, y: (p - y).square().mean(1).mean()), tmp_path
    )

    assert weights(found) == [(32, Fraction(1, 32))]
    assert totals(found) == [1]


def test_a_batch_of_one_reads_as_the_others_do(tmp_path: Path) -> None:
    for loss in (F.mse_loss, lambda p, y: ((p - y) * 3).square().mean()):
        found = explain(train(1, loss=loss), tmp_path)

        assert weights(found) == [(1, 1)]


def test_data_in_a_batch_of_one_are_no_factor(tmp_path: Path) -> None:
    def script() -> None:
        w = torch.ones(1, requires_grad=True)
        (w * torch.full((1, 1), 3.0)).mean().backward()

    assert weights(explain(script, tmp_path)) == [(1, 1)]


# Several calls.


def test_three_calls_that_nobody_divides(tmp_path: Path) -> None:
    found = explain(train(8, 8, 8), tmp_path)

    assert weights(found) == [(8, EIGHTH)] * 3
    assert verdicts(found, "backward calls") == ["SUM"]
    assert found.verdict.words == "3 x the mean gradient, over all 24 items"


def test_three_calls_divided_by_three(tmp_path: Path) -> None:
    found = explain(train(8, 8, 8, loss=lambda p, y: F.mse_loss(p, y) / 3), tmp_path)

    assert weights(found) == [(8, Fraction(1, 24))] * 3
    assert verdicts(found, "backward calls") == ["mean"]
    assert found.verdict.words == "the mean over all 24 items"


def test_three_calls_whose_gradient_is_divided_by_hand(tmp_path: Path) -> None:
    def divide(model: nn.Module) -> None:
        model.w.grad /= 3

    found = explain(train(8, 8, 8, before_step=divide), tmp_path)

    assert weights(found) == [(8, Fraction(1, 24))] * 3
    assert found.verdict.words == "the mean over all 24 items"
    assert verdicts(found, "afterwards") == ["x 1/3"]


def test_three_sums_are_one_sum(tmp_path: Path) -> None:
    found = explain(train(8, 8, 8, loss=lambda p, y: F.mse_loss(p, y, reduction="sum")), tmp_path)

    assert verdicts(found, "backward calls") == ["sum"]
    assert found.verdict.words == "the sum over all 24 items"


def test_ragged_calls_are_a_mean_of_means(tmp_path: Path) -> None:
    found = explain(train(8, 4, loss=lambda p, y: F.mse_loss(p, y) / 2), tmp_path)

    assert weights(found) == [(8, Fraction(1, 16)), (4, EIGHTH)]
    assert found.verdict.terms[0].ratio == 2
    assert verdicts(found, "backward calls") == ["UNEQUAL"]
    assert found.verdict.words.startswith("a mean of means, not the mean")


def test_ragged_sums_over_one_count_are_a_mean(tmp_path: Path) -> None:
    found = explain(train(8, 4, loss=lambda p, y: (p - y).square().sum() / 12), tmp_path)

    assert found.verdict.words == "the mean over all 12 items"


def test_calls_of_an_earlier_step_are_still_in_the_buffer(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            x, y = data(8)
            F.mse_loss(model(x), y).backward()
            optimizer.step()

    found = explain(script, tmp_path, step=3)

    assert verdicts(found, "backward calls") == ["SUM"]
    note = next(axis.note for axis in found.verdict.axes if axis.name == "backward calls")
    assert note == "2 of them used by an earlier step already: no zero_grad since"


# A printed 3, in four ways.


def three_by_calls() -> None:
    w, x = torch.ones(1, requires_grad=True), torch.ones(4, 1)
    for _ in range(3):
        (w * x).mean().backward()


def three_by_data() -> None:
    w, x = torch.ones(1, requires_grad=True), torch.full((4, 1), 3.0)
    (w * x).mean().backward()


def three_by_a_sum() -> None:
    w, x = torch.ones(1, requires_grad=True), torch.ones(3, 1)
    (w * x).sum().backward()


def three_by_a_factor() -> None:
    w, x = torch.ones(1, requires_grad=True), torch.ones(4, 1)
    ((w * x).mean() * 3).backward()


@pytest.mark.parametrize(
    ("script", "items", "answer"),
    [
        (three_by_calls, [(4, Fraction(1, 4))] * 3, "3 x the mean gradient, over all 12 items"),
        (three_by_data, [(4, Fraction(1, 4))], "the mean over all 4 items"),
        (three_by_a_sum, [(3, 1)], "the sum over all 3 items"),
        (three_by_a_factor, [(4, Fraction(3, 4))], "3 x the mean gradient, over all 4 items"),
    ],
)
def test_a_gradient_of_3_is_told_apart(
    script: Callable[[], None], items: list[tuple[int, Fraction]], answer: str, tmp_path: Path
) -> None:
    found = explain(script, tmp_path)

    assert found.ledger.history.content.measured.values == (3.0,)
    assert weights(found) == items
    assert found.verdict.words == answer


# The same items again.


def test_items_that_are_sent_twice_over_one_graph_are_no_further_items(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = F.mse_loss(model(data(8)[0]), data(8)[1])
        loss.backward(retain_graph=True)
        (loss / 2).backward()
        optimizer.step()

    found = explain(script, tmp_path)
    (term,) = found.verdict.terms

    assert weights(found) == [(8, EIGHTH), (8, EIGHTH / 2)]
    assert (term.items, term.weight, term.total) == (8, EIGHTH * 3 / 2, Fraction(3, 2))
    assert found.verdict.words == "3/2 x the mean gradient, over all 8 items"
    assert term.calls.words == "2 calls of the same items, not divided"


def test_each_loss_of_a_sum_that_was_sent_before_counts_twice(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = [F.mse_loss(model(x), y) for x, y in (data(4), data(4), data(4))]
        for loss in losses:
            loss.backward(retain_graph=True)
        torch.stack(losses).sum().backward()
        optimizer.step()

    found = explain(script, tmp_path)
    (term,) = found.verdict.terms

    assert (term.items, term.weight, term.total) == (12, Fraction(1, 2), 6)


def test_new_items_on_a_retained_graph_are_items_of_their_own(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(8)
        answers = model(x)
        F.mse_loss(answers, y).backward(retain_graph=True)
        F.mse_loss(answers, -y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert [term.items for term in found.verdict.terms] == [8, 8]


def test_a_running_total_that_is_sent_again_and_again_has_no_weights_that_are_known(
    tmp_path: Path,
) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        whole = torch.zeros((), dtype=torch.float64)
        for x, y in (data(4), data(4), data(4)):
            whole = whole + F.mse_loss(model(x), y)
            whole.backward(retain_graph=True)
        optimizer.step()

    found = explain(script, tmp_path)

    assert found.verdict.words == (
        "not known: several losses are sent backward again together, over one graph"
    )
