"""What `tracer.testing` accepts, refuses, and says when it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import tracer
from tests.diff.runs import Run, record
from tests.graph.sketch import Grad, Op, Sketch
from tracer.errors import UnknownName, WrongUse
from tracer.testing import (
    assert_balanced,
    assert_equivalent,
    assert_mean_over_items,
    assert_same_steps,
)

FORGOTTEN = Run((4, 4, 4, 4))
DIVIDED = Run((4, 4, 4, 4), divide=4)


def summed(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(answers, targets, reduction="sum")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Run], Path]:
    folder = tmp_path_factory.mktemp("runs")

    def recorded(name: str, run: Run) -> Path:
        path = folder / f"{name}.trace"
        return path if path.exists() else record(path, run)

    return recorded


Made = Callable[[str, Run], Path]


def test_runs_that_split_the_batch_otherwise_are_equivalent(made: Made) -> None:
    assert_equivalent(made("one", Run()), made("divided", DIVIDED))


def test_runs_that_are_not_equivalent_are_told_apart_in_words(made: Made) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(made("one", Run()), made("forgotten", FORGOTTEN))

    said = str(caught.value)
    assert said.startswith("the two runs do not consume the same gradients\n\n")
    assert "Gradients and steps 4 x as large in B." in said
    assert "first at the backward calls: one call (runs.py:" in said


def test_one_step_alone_can_be_asked_for(made: Made) -> None:
    late = Run(zeroes_at=lambda step: step == 1)

    assert_equivalent(made("one", Run()), made("late", late), step=1)
    with pytest.raises(AssertionError, match="do not consume the same gradients"):
        assert_equivalent(made("one", Run()), made("late", late), step=2)
    with pytest.raises(UnknownName, match="no step 9"):
        assert_equivalent(made("one", Run()), made("late", late), step=9)


def test_a_factor_that_the_learning_rate_takes_back_leaves_the_steps_the_same(made: Made) -> None:
    sums = made("sums", Run(loss=summed, lr=0.1 / 32))

    assert_same_steps(made("one", Run()), sums)
    with pytest.raises(AssertionError, match="do not consume the same gradients"):
        assert_equivalent(made("one", Run()), sums)
    with pytest.raises(AssertionError, match="do not take the same steps"):
        assert_same_steps(made("one", Run()), made("forgotten", FORGOTTEN))


def test_a_missing_parameter_is_no_equivalence(made: Made) -> None:
    frozen = Run(prepare=lambda model: model.first.requires_grad_(False))

    with pytest.raises(AssertionError, match="frozen in B"):
        assert_equivalent(made("one", Run()), made("frozen", frozen))


def test_a_mean_over_all_items_is_known_however_it_is_made(made: Made) -> None:
    assert_mean_over_items(made("one", Run()))
    assert_mean_over_items(made("divided", DIVIDED), parameter="first.weight", step=2)


@pytest.mark.parametrize(
    ("name", "run", "said"),
    [
        ("sums", Run(loss=summed, lr=0.1 / 32), "the sum over all 16 samples"),
        ("forgotten", FORGOTTEN, "4 x the mean gradient"),
        ("ragged", Run((7, 5, 3, 1), divide=4), "a mean of means, not the mean"),
    ],
)
def test_what_is_no_mean_is_explained(made: Made, name: str, run: Run, said: str) -> None:
    with pytest.raises(AssertionError, match="not every loss is the mean") as caught:
        assert_mean_over_items(made(name, run))

    assert said in str(caught.value)


def test_a_constant_times_the_mean_is_accepted_when_asked_for(made: Made) -> None:
    assert_mean_over_items(made("forgotten", FORGOTTEN), scaled=True)
    with pytest.raises(AssertionError, match="a constant times the mean"):
        assert_mean_over_items(made("ragged", Run((7, 5, 3, 1), divide=4)), scaled=True)


def test_books_balance_and_a_known_hook_is_no_imbalance(made: Made) -> None:
    hooked = Run(prepare=lambda model: model.last.weight.register_hook(lambda g: 0.5 * g))

    assert_balanced(made("one", Run()))
    assert_balanced(made("hooked", hooked))


def test_books_that_do_not_balance_say_where(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    sketch.call(
        [Op("MeanBackward0", 7), Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((4,), 0.25))],
        after={w: Grad((4,), 0.5)},
    )

    with pytest.raises(AssertionError) as caught:
        assert_balanced(sketch.close())

    assert "the books do not balance\n\nw: what arrived is x 2 of what was sent" in str(
        caught.value
    )


def test_a_run_can_be_given_in_four_ways(made: Made, tmp_path: Path) -> None:
    path = made("one", Run())
    with tracer.Recorder(tmp_path / "again.trace") as recorder:
        Run().train()

    with tracer.load(path) as opened:
        for run in (str(path), path, opened, recorder):
            assert_equivalent(run, path)
    with pytest.raises(WrongUse, match="found int, expected a run"):
        assert_balanced(7)  # type: ignore[arg-type]


def test_the_assertions_load_no_torch() -> None:
    code = "import sys, tracer.testing; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
