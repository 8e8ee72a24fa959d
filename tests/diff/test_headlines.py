"""The first thing that `diff` says: the one that a user needs, with the line where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.diff.runs import (
    Net,
    Run,
    WithLoss,
    data,
    headline,
    record,
    replicated,
    section,
    text_of,
)

Traces = Callable[[str], Path]


def normalised(trains: bool = True) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(10, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 2))
        return net.train(trains)

    return model


def penalised(answers: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(answers, targets) + 0.1 * answers.pow(2).mean()


def drifting(answers: Tensor, targets: Tensor) -> Tensor:
    drift = answers.abs().mean()
    error = (answers - targets).pow(2).mean()
    return drift + error / 4


def settled(answers: Tensor, targets: Tensor) -> Tensor:
    error = (answers - targets).pow(2).mean()
    return error / 4


def per_sample(answers: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(answers, targets, reduction="sum") / len(answers)


class Edited(Run):
    """The gradients of one step are multiplied by hand."""

    def train(self) -> None:
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(1, 4):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(16, 10, generator=generator)
            F.mse_loss(model(x), torch.zeros(16, 2)).backward()
            if step == 2 and self.lr == 3:
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad *= 3
            optimizer.step()


def broken(answers: Tensor, targets: Tensor) -> Tensor:
    return (F.mse_loss(answers, targets) - 1000).sqrt()


def steep(answers: Tensor, targets: Tensor) -> Tensor:
    """Its value is finite, the derivative of the root at zero is not."""
    return (answers - answers.detach()).sqrt().mean() + F.mse_loss(answers, targets)


def of_the_head(parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimizer is not given the first layer."""
    return torch.optim.SGD(list(parameters)[2:], lr=lr)


DECAYED = (("weight_decay", 0.1),)
RUNS: dict[str, Run] = {
    "one call": Run(),
    "normalised": Run(model=normalised()),
    "normalised, in parts": Run((4, 4, 4, 4), divide=4, model=normalised()),
    "normalised, as learned": Run(model=normalised(trains=False)),
    "penalised": Run(loss=penalised),
    "absolute": Run(loss=F.l1_loss),
    "drifting": Run(loss=drifting),
    "settled": Run(loss=settled),
    "per sample": Run(loss=per_sample),
    "plain": Edited(),
    "edited": Edited(lr=3),
    "not finite": Run(loss=broken),
    "steep": Run(loss=steep),
    "head only": Run(optimizer=of_the_head),
    "decayed": Run(optimizer=torch.optim.Adam, options=DECAYED),
    "decayed, forgotten": Run((4, 4, 4, 4), optimizer=torch.optim.Adam, options=DECAYED),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """The trace of a run by its name, recorded once."""
    folder = tmp_path_factory.mktemp("headlines")
    made: dict[str, Path] = {}

    def recorded(name: str) -> Path:
        if name not in made:
            path = folder / f"{name.replace(' ', '_').replace(',', '')}.trace"
            made[name] = record(path, RUNS[name])
        return made[name]

    return recorded


def test_a_factor_of_a_later_step_does_not_hide_the_steps_before(trace: Traces) -> None:
    text = text_of(trace("plain"), trace("edited"))

    assert headline(text) == (
        "The same before step 2; at step 2 gradients and steps 3 x as large in B."
    )
    assert "x 3 changed by hand (between test_headlines.py:" in section(text, "where they part")[0]


def test_batches_that_are_normalised_in_parts_are_not_other_data(trace: Traces) -> None:
    text = text_of(trace("normalised"), trace("normalised, in parts"))

    assert headline(text) == (
        "Different batch statistics from step 1 on: other samples are normalised together."
    )
    assert section(text, "where they part")[0].startswith(
        "batch normalisation takes its statistics over 16 samples in A and over 4 in B   (runs.py:"
    )


def test_a_layer_that_trains_in_one_run_only_is_another_option(trace: Traces) -> None:
    text = text_of(trace("normalised"), trace("normalised, as learned"))

    assert headline(text).startswith("Different options from step 1 on: NativeBatchNorm")
    assert headline(text).endswith("training is True in A and False in B.")
    # The bias in front of the normalisation has a gradient where no batch is normalised.
    (rounded,) = [s for s in section(text, "gradients") if "rounding" in s]
    assert rounded.startswith("nothing but rounding (its sum cancels) in A, but not in B: 1 param")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("penalised", "the losses are made of others: only PowBackward0 in B"),
        (
            "absolute",
            "the losses are made of others: MseLossBackward0 in A, AbsBackward0 (l1_loss) ",
        ),
    ],
)
def test_another_loss_is_not_called_other_data(name: str, said: str, trace: Traces) -> None:
    text = text_of(trace("one call"), trace(name))

    assert headline(text) == "Different losses: their gradients differ from step 1 on."
    assert section(text, "where they part")[0].startswith(said)


def test_a_loss_that_only_one_run_adds_is_named_and_stands_beside_none(trace: Traces) -> None:
    text = text_of(trace("drifting"), trace("settled"))

    said = section(text, "where they part")
    assert "losses that are added: 2 in A, 1 in B" in said
    (lone,) = [line for line in said if line.startswith("only A has drift = ")]
    assert lone.startswith("only A has drift = answers.abs().mean(): the mean over all 32 items")
    # The error weighs the same in both: there is no stage at which the two part.
    assert not [line for line in said if line.startswith("first ")]


def test_replicas_are_no_other_model(tmp_path: Path) -> None:
    def other_data() -> None:
        torch.manual_seed(0)
        model = WithLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(*data(1, 16, seed=1)).mean().backward()
        optimizer.step()

    one = record(tmp_path / "one.trace", other_data)
    two = record(tmp_path / "two.trace", replicated(2, loss_inside=True))

    assert headline(text_of(one, two)) == "Different data, or randomness, from step 1 on."


def test_a_mean_of_elements_and_their_sum_are_compared_by_the_element(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("per sample"))

    assert headline(text) == "Gradients and steps 2 x as large in B."
    (weighs,) = [line.split() for line in text.splitlines() if "= one element weighs" in line]
    # 16 samples of two elements: 1/32 each; their sum divided by 16 samples.
    assert weighs[4:] == ["1/32", "1/16", "x", "2"]


def test_a_loss_that_is_not_finite_is_named_with_its_line(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("not finite"))

    assert headline(text) == "Gradients of B are not finite from step 1 on."
    assert section(text, "where they part")[0].startswith(
        "the loss of backward call 1 is not finite in B   (test_headlines.py:"
    )


def test_the_node_that_makes_a_gradient_infinite_is_named(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("steep"))

    assert headline(text) == "Gradients of B are not finite from step 1 on."
    assert section(text, "where they part")[0].startswith(
        "SqrtBackward0 sends what is not finite, in backward call 1 of B   (test_headlines.py:"
    )


def test_parameters_that_an_optimizer_was_not_given_are_named(trace: Traces) -> None:
    for a, b, which, other in (
        ("one call", "head only", "A", "B"),
        ("head only", "one call", "B", "A"),
    ):
        text = text_of(trace(a), trace(b))

        assert headline(text) == "The same gradients, but not for the same parameters."
        assert section(text, "gradients")[:2] == [
            "B = A for 2 of 4 parameters (last.bias, last.weight), at step 1",
            f"taken by a step in {which} only: 2 parameters (first.bias, first.weight); not held "
            f"by the optimizer in {other}",
        ]


def test_decay_that_adam_divides_with_the_gradient_is_no_same_step(trace: Traces) -> None:
    text = text_of(trace("decayed"), trace("decayed, forgotten"))

    assert headline(text) == (
        "Gradients 4 x as large in B, but not the same steps: what L2 decay weighs beside the "
        "gradient differs."
    )
    (steps,) = section(text, "steps")
    assert "the factor 4 cancels, but for eps and L2 decay" in steps
    assert "L2 decay of 0.1 x weight, added to the gradient, in both" in steps
