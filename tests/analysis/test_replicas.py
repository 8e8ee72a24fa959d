"""Items of several replicas: torch's own DataParallel on virtual GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.recorded import explain, rows_of, weights
from tracer.devices import virtual_gpus

pytestmark = pytest.mark.filterwarnings("ignore:Was asked to gather along dimension 0")


@pytest.fixture(autouse=True)
def _two_gpus() -> Iterator[None]:
    with virtual_gpus(2):
        yield


class Model(nn.Module):
    """Gives answers, or its own loss if it is told what is right."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        answers = self.layer(x)
        return answers if y is None else F.mse_loss(answers, y)


def train(step: Callable[[nn.Module], Tensor], calls: int = 1) -> Callable[[], None]:
    def script() -> None:
        model = nn.DataParallel(Model().cuda())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(calls):
            step(model).backward()
        optimizer.step()

    return script


def data(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3).cuda(), torch.randn(n, 2).cuda()


def after_the_gather(model: nn.Module) -> Tensor:
    x, y = data(8)
    return F.mse_loss(model(x), y)


def verdict(found, name: str) -> str:
    return next(axis.verdict for axis in found.verdict.axes if axis.name == name)


def test_a_loss_after_the_gather_is_one_mean(tmp_path: Path) -> None:
    found = explain(train(after_the_gather), tmp_path, "layer.weight")

    assert weights(found) == [(16, Fraction(1, 16))]
    assert found.ledger.replicas == 2
    assert verdict(found, "replicas") == "sum"
    assert found.verdict.words == "the mean over all 16 items (8 samples of 2 elements)"


def test_three_calls_of_replicas(tmp_path: Path) -> None:
    found = explain(train(after_the_gather, calls=3), tmp_path, "layer.weight")

    assert verdict(found, "backward calls") == "SUM"
    assert found.verdict.words.startswith("3 x the mean gradient")


def test_losses_of_the_replicas_averaged(tmp_path: Path) -> None:
    found = explain(train(lambda m: m(*data(8)).mean()), tmp_path, "layer.weight")

    assert weights(found) == [(8, Fraction(1, 16))] * 2
    assert [row.replica for row in rows_of(found)] == [0, 1] or {
        row.replica for row in found.ledger.rows
    } == {0, 1}
    assert verdict(found, "replicas") == "mean"


def test_losses_averaged_over_replicas_and_calls(tmp_path: Path) -> None:
    found = explain(train(lambda m: m(*data(8)).mean() / 2, calls=2), tmp_path, "layer.weight")

    assert verdict(found, "replicas") == "mean"
    assert verdict(found, "backward calls") == "mean"
    assert found.verdict.words.startswith("the mean over all 32 items")


def test_a_clip_does_not_make_a_sum_of_averaged_replicas(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.DataParallel(Model().cuda())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = model(*data(8))
        (3 * losses.mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()

    found = explain(script, tmp_path, "layer.weight")

    assert verdict(found, "replicas") == "mean"


def test_losses_of_the_replicas_summed(tmp_path: Path) -> None:
    found = explain(train(lambda m: m(*data(8)).sum()), tmp_path, "layer.weight")

    assert weights(found) == [(8, Fraction(1, 8))] * 2
    assert verdict(found, "replicas") == "SUM"
    assert found.verdict.words.startswith("2 x the mean gradient")


def test_ragged_replicas_are_a_mean_of_means(tmp_path: Path) -> None:
    found = explain(train(lambda m: m(*data(5)).mean()), tmp_path, "layer.weight")

    assert sorted(weights(found)) == [(4, Fraction(1, 8)), (6, Fraction(1, 12))]
    assert verdict(found, "replicas") == "UNEQUAL"
    assert found.verdict.terms[0].ratio == 1.5


@pytest.mark.parametrize(("factors", "gradient"), [([1, 2], 1.5), ([1, 5], 3.0)])
def test_replicas_with_factors_of_their_own(
    factors: list[int], gradient: float, tmp_path: Path
) -> None:
    def script() -> None:
        w = torch.ones(1, device="cuda", requires_grad=True)

        class Captured(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.held = [w]

            def forward(self, x: Tensor) -> Tensor:
                return self.held[0].to(x.device) * x * factors[x.device.index]

        nn.DataParallel(Captured())(torch.ones(4, 1, device="cuda")).mean().backward()

    found = explain(script, tmp_path)

    assert found.ledger.history.content.measured.values == (gradient,)
    assert weights(found) == [(2, Fraction(1, 4))] * 2
    assert verdict(found, "replicas") == "sum"
    assert found.verdict.words == "the mean over all 4 items"
