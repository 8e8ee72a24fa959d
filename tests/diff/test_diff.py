"""Pairs of recorded runs, and what `diff` says of them: as a user reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.diff.runs import (
    Net,
    Renamed,
    Run,
    compared,
    headline,
    one_with_loss,
    record,
    replicated,
    section,
    text_of,
)
from tracer.views.diff_headline import headline as sentence

Traces = Callable[[str], Path]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def hooked(model: nn.Module) -> None:
    model.last.weight.register_hook(lambda gradient: 0.5 * gradient)


def summed(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(answers, targets, reduction="sum")


def weighted(times: float) -> Loss:
    """Samples weigh 1/136 to 16/136, times a number."""

    def loss(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = torch.arange(1.0, 17.0) * times / 136
        return torch.dot((answers - targets).pow(2).mean(1), weights)

    return loss


def of_classes(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(answers, targets.argmax(1), weight=torch.tensor([1.0, 3.0]))


RUNS: dict[str, Run | Callable[[], object]] = {
    "one call": Run(),
    "divided": Run((4, 4, 4, 4), divide=4),
    "forgotten": Run((4, 4, 4, 4)),
    "divided twice": Run((4, 4, 4, 4), divide=16),
    "ragged": Run((7, 5, 3, 1), divide=4),
    "summed": Run(loss=summed, lr=0.1 / 32),
    "other seed": Run(seed=1),
    "other data": Run(data_seed=1),
    "32 samples": Run((32,)),
    "adam": Run(optimizer=torch.optim.Adam, lr=0.01),
    "adam, forgotten": Run((4, 4, 4, 4), optimizer=torch.optim.Adam, lr=0.01),
    "adam, forgotten, zeroed once": Run(
        (4, 4, 4, 4), optimizer=torch.optim.Adam, lr=0.01, zeroes_at=lambda step: step == 1
    ),
    "weighted": Run(loss=weighted(1)),
    "weighted, doubled": Run(loss=weighted(2)),
    "weighted, backwards": Run(loss=lambda y, t: weighted(1)(y.flip(0), t.flip(0))),
    "classes weighted": Run(loss=of_classes),
    "classes": Run(loss=lambda y, t: F.cross_entropy(y, t.argmax(1))),
    "lr doubled": Run(lr=0.2),
    "momentum": Run(options=(("momentum", 0.9),)),
    "decay": Run(options=(("weight_decay", 0.01),)),
    "clipped": Run(clip=0.25),
    "amp": Run(scales=True),
    "autocast": Run(autocast=True),
    "renamed": Run(model=Renamed),
    "deeper": Run(model=lambda: Net(deeper=True)),
    "frozen": Run(prepare=lambda model: model.first.requires_grad_(False)),
    "zeroed once": Run(zeroes_at=lambda step: step == 1),
    "hooked": Run(prepare=hooked),
    "dropout": Run(model=lambda: Net(drop=0.5)),
    "another dropout": Run(model=lambda: Net(drop=0.2)),
    "one with loss": one_with_loss,
    "replicas averaged": replicated(2, "mean"),
    "replicas summed": replicated(2, "sum"),
    "replicas gathered": replicated(2, "mean", loss_inside=False),
    "double": Run(dtype=torch.float64),
    "double, divided": Run((4, 4, 4, 4), divide=4, dtype=torch.float64),
    "compiled": Run(model=lambda: nn.DataParallel(Net())),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """The trace of a run by its name, recorded once."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}

    def recorded(name: str) -> Path:
        if name not in made:
            path = folder / f"{name.replace(' ', '_').replace(',', '')}.trace"
            made[name] = record(path, RUNS[name])
        return made[name]

    return recorded


# Batch 16 against four calls of four.


def test_a_trace_with_itself_is_no_difference_and_no_wall_of_numbers(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("one call"))

    assert headline(text) == "No difference: the same gradients and the same steps."
    assert section(text, "gradients") == ["B = A for 4 of 4 parameters, at steps 1 to 3"]
    assert section(text, "steps") == ["the same; lr 0.1 in both"]
    assert len(text.splitlines()) < 12


def test_four_calls_divided_by_four_are_the_same_in_another_way(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("divided"))

    assert headline(text) == (
        "No difference: the same gradients and the same steps, though they come to it in "
        "different ways."
    )
    first, then = section(text, "where they part")
    assert "first in the loss: nothing in A, x 1/4 (runs.py:" in first
    assert then == "then x 4 at the backward calls; they cancel: 1/4 x 4 = 1"


def test_a_forgotten_division_is_a_factor_of_the_calls(trace: Traces) -> None:
    with compared(trace("one call"), trace("forgotten")) as found:
        (update,) = found.updates
        (exhibit,) = found.exhibits
        assert update.updates.ratio == 4
        assert exhibit.explains
        assert exhibit.partings[0].ratio == 4
    text = text_of(trace("one call"), trace("forgotten"))

    assert headline(text) == "Gradients and steps 4 x as large in B."
    first, later = section(text, "gradients")
    assert first == "B = 4 x A for 4 of 4 parameters, at step 1"
    assert later.endswith("the steps before took the weights apart")
    (parted,) = section(text, "where they part")
    assert parted.startswith("first at the backward calls: one call (runs.py:")
    assert parted.endswith("=> x 4")


def test_a_division_too_many_is_a_quarter(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("divided twice"))

    assert headline(text) == "Gradients and steps 1/4 x as large in B."
    assert section(text, "where they part")[1] == (
        "then x 4 at the backward calls; together: 1/16 x 4 = 1/4"
    )


def test_ragged_calls_say_which_items_weigh_more(trace: Traces) -> None:
    with compared(trace("one call"), trace("ragged")) as found:
        weighings = found.exhibits[0].partings[0].weighings
        # 16 samples of 2 elements: 1/32 each; then 1 / (4 calls x elements of the call).
        assert [(w.items, w.a, w.b, w.ratio) for w in weighings] == [
            (14, Fraction(1, 32), Fraction(1, 56), Fraction(4, 7)),
            (10, Fraction(1, 32), Fraction(1, 40), Fraction(4, 5)),
            (6, Fraction(1, 32), Fraction(1, 24), Fraction(4, 3)),
            (2, Fraction(1, 32), Fraction(1, 8), Fraction(4)),
        ]
    text = text_of(trace("one call"), trace("ragged"))

    assert headline(text) == (
        "Different directions: items do not weigh the same against one another."
    )
    assert section(text, "gradients")[0].startswith("not proportional for 4 of 4 parameters")
    same, unequal = section(text, "where they part")
    assert "in both: the same data" in same
    assert unequal == (
        "items weigh differently: one of call 4 (2 items) weighs 4 x as much in B as in A, one of "
        "call 1 (14 items) 4/7 x"
    )


def test_a_sum_with_a_smaller_lr_takes_the_same_steps(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("summed"))

    assert headline(text) == "Gradients 32 x as large in B, but the same steps."
    assert section(text, "steps") == [
        "the same: gradient x 32, lr x 1/32; lr 0.1 in A, 0.003125 in B"
    ]


def test_double_precision_is_compared_as_well(trace: Traces) -> None:
    with compared(trace("double"), trace("double, divided")) as found:
        assert found.is_none


# What is not the same model, data or weights.


def test_another_seed_is_other_weights(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("other seed"))

    assert headline(text) == "Different weights from the start: everything after that differs, too."
    assert section(text, "where they part")[0] == (
        "the weights differ from the start: 4 of 4 parameters, the first is last.bias"
    )
    assert len(text.splitlines()) < 16


def test_other_data_on_the_same_weights(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("other data"))

    assert headline(text) == "Different data, or randomness, from step 1 on."
    (losses,) = section(text, "where they part")
    assert losses.startswith("the losses of the 32 items add up to ")


def test_twice_as_many_samples_are_another_batch(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("32 samples"))

    assert headline(text) == "Different batches: their gradients differ from step 1 on."
    assert "items per step  16 samples  32 samples" in section(text, "what else differs")


def test_dropout_that_only_one_has_and_dropout_that_both_have(trace: Traces) -> None:
    only_b = text_of(trace("one call"), trace("dropout"))
    both = text_of(trace("dropout"), trace("another dropout"))

    assert headline(only_b) == "Different models: their gradients differ from step 1 on."
    assert section(only_b, "where they part")[0].startswith("only B has in drop: MulBackward0")
    rates = "dropout(p=0.5) in A and dropout(p=0.2) in B"
    assert headline(both) == f"Different options from step 1 on: {rates}."
    assert section(both, "where they part")[0].startswith(f"{rates}   (runs.py:")
    assert section(both, "where they part")[-1].startswith("both drop values at random (dropout)")


def test_one_layer_more_is_another_model(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("deeper"))

    assert headline(text) == "Different models: their gradients differ from step 1 on."
    assert "only in B: 2 parameters (middle.bias, middle.weight)" in section(text, "gradients")
    assert any("only B has in middle: AddmmBackward0" in s for s in text.splitlines())


def test_renamed_modules_are_matched_by_shape(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("renamed"))

    assert headline(text) == "No difference: the same gradients and the same steps."
    assert section(text, "gradients")[1].startswith("matched by shape, not by name: 4 (")


def test_a_frozen_layer_has_no_gradient(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("frozen"))

    assert headline(text) == "The same gradients, but not for the same parameters."
    assert section(text, "gradients")[:2] == [
        "B = A for 2 of 4 parameters (last.bias, last.weight), at step 1",
        "a gradient in A only: 2 parameters (first.bias, first.weight); frozen in B",
    ]


# What happens behind the loss.


def test_a_missing_zero_grad_shows_from_the_second_step_on(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("zeroed once"))

    assert headline(text) == (
        "The same before step 2; then different directions: B adds what an earlier step has used "
        "already."
    )
    assert section(text, "gradients")[0] == "B = A at step 1"
    same, parted = section(text, "where they part")
    assert "in both: the same data" in same
    assert "2 calls, added, 1 of them used by an earlier step already" in parted
    assert "x 2" not in text  # what is added is of other items: no factor


def test_a_step_that_consumes_an_earlier_one_again_says_so(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("zeroed once"), 2, 2)

    assert headline(text) == "Different directions: B adds what an earlier step has used already."


def test_a_hook_changes_one_parameter(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("hooked"))

    assert headline(text) == (
        "The same gradients for 3 parameters (last.bias, first.bias, first.weight); "
        "1/2 x as large in B for 1 parameter (last.weight)."
    )
    assert "B = 1/2 x A for 1 of 4 parameters (last.weight), at step 1" in section(
        text, "gradients"
    )
    parted = section(text, "where they part")[-1]
    assert parted.startswith(
        "last.weight: first behind the loss: nothing in A, x 1/2 by 1 hook (test_diff.py:"
    )
    assert parted.endswith(") in B => x 1/2")


def test_a_clip_is_a_factor_of_the_step(trace: Traces) -> None:
    with compared(trace("one call"), trace("clipped")) as found:
        (exhibit,) = found.exhibits
        assert exhibit.explains
        assert exhibit.partings[0].parted[0].b.words.endswith("clipped by norm")
    assert headline(text_of(trace("one call"), trace("clipped"))).startswith(
        "Gradients and steps about 0."
    )


def test_a_loss_scale_cancels(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("amp"))

    assert headline(text).startswith("No difference: the same gradients and the same steps, though")
    assert section(text, "where they part")[1] == (
        "then x 1/65536 behind the loss; they cancel: 65536 x 1/65536 = 1"
    )


def test_autocast_is_no_difference_beyond_its_rounding(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("autocast"))

    assert headline(text).startswith("No difference beyond what reduced precision rounds (up to ")
    assert "precision  float32  float32, bfloat16" in section(text, "what else differs")


# Replicas.


def test_replicas_whose_losses_are_averaged_are_no_difference(trace: Traces) -> None:
    for name in ("replicas averaged", "replicas gathered"):
        with compared(trace("one with loss"), trace(name)) as found:
            assert found.is_none
            assert found.settings[0].name == "replicas"


def test_replicas_whose_losses_are_summed_are_a_factor_of_the_replicas(trace: Traces) -> None:
    text = text_of(trace("one with loss"), trace("replicas summed"))

    assert headline(text) == "Gradients and steps 2 x as large in B."
    (parted,) = section(text, "where they part")
    assert parted.startswith(
        "first at the replicas: nothing in A, 2 losses, one per replica, added (runs.py:"
    )


def test_data_parallel_of_no_devices_is_a_wrapper_and_no_more(trace: Traces) -> None:
    with compared(trace("one call"), trace("compiled")) as found:
        assert found.is_none
        assert {pair.how for pair in found.partners.pairs} == {"name"}


# Optimizers.


def test_the_learning_rate_is_the_step_and_not_the_gradient(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("lr doubled"))

    assert headline(text) == "The same gradients, and steps 2 x as large in B."
    assert section(text, "steps") == ["2 x as far in B; lr 0.1 in A, 0.2 in B"]


def test_momentum_and_decay_are_steps_of_their_own(trace: Traces) -> None:
    for name, why, said in (
        ("momentum", "momentum", "momentum 0 (sums up to 1 x) in A, 0.9 (sums up to 10 x) in B"),
        ("decay", "weight decay", "decay of 0 x weight in A, 0.001 in B"),
    ):
        text = text_of(trace("one call"), trace(name))
        assert headline(text) == f"The same gradients, but not the same steps: {why} differs."
        assert said in section(text, "steps")[0]


def test_two_kinds_of_optimizer_are_not_compared_by_a_factor(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("adam"))

    assert headline(text) == "The same gradients, but not the same steps: SGD in A, Adam in B."
    assert section(text, "steps") == ["A steps by SGD, B by Adam: no factor compares their steps"]


def test_adam_cancels_a_constant_factor(trace: Traces) -> None:
    text = text_of(trace("adam"), trace("adam, forgotten"))

    assert headline(text) == ("Gradients 4 x as large in B, which Adam cancels, but for eps.")


def test_a_factor_that_adam_cancelled_is_not_called_the_same(trace: Traces) -> None:
    text = text_of(trace("adam"), trace("adam, forgotten, zeroed once"))

    assert headline(text) == (
        "Gradients 4 x as large in B before step 2, which Adam cancels, but for eps; then "
        "different directions: B adds what an earlier step has used already."
    )
    assert section(text, "gradients")[0] == "B = 4 x A at step 1"


def test_rounding_that_grows_beyond_a_factor_keeps_the_factor_in_the_headline(
    trace: Traces,
) -> None:
    with compared(trace("adam"), trace("adam, forgotten")) as found:
        second = found.moments[1]
        first, *rest = second.matches
        near = replace(first, relation=replace(first.relation, kind="near", off=2e-5))
        shown = replace(second, matches=(near, *rest))
        moments = (found.moments[0], shown, *found.moments[2:])

        assert sentence(replace(found, moments=moments, shown=shown)) == (
            "Gradients 4 x as large in B before step 2, which Adam cancels, but for eps; from "
            "there on apart by a little, up to 2e-05 of the norm: rounding that grows, or a small "
            "cause."
        )


# Items that weigh differently in one reduction.


def test_weights_of_items_are_no_factor_and_no_other_data(trace: Traces) -> None:
    text = text_of(trace("one call"), trace("weighted"))

    assert headline(text) == (
        "Different directions: items do not weigh the same against one another."
    )
    # 16 samples of two elements: 1/32 each; their means weigh 1/136 to 16/136, elements half that.
    (said,) = [s for s in section(text, "where they part") if s.startswith("items weigh")]
    assert said.startswith("items weigh differently: 1/32 each in A, 1/")
    assert "=> x" not in text
    assert "one item weighs" not in text


def test_items_that_differ_alike_in_both_have_a_factor(trace: Traces) -> None:
    text = text_of(trace("weighted"), trace("weighted, doubled"))

    assert headline(text) == "Gradients and steps 2 x as large in B."
    assert "items weigh differently" not in text


def test_the_same_weights_on_other_items_are_not_taken_for_other_data(trace: Traces) -> None:
    text = text_of(trace("weighted"), trace("weighted, backwards"))

    assert headline(text) == "Different data, randomness, or weights of items, from step 1 on."


def test_weights_of_classes_are_weights_of_items(trace: Traces) -> None:
    text = text_of(trace("classes"), trace("classes weighted"))

    assert headline(text) == (
        "Different directions: items do not weigh the same against one another."
    )
    assert "x its own weight each" in text


# Two steps of one run.


def test_two_steps_of_one_trace(trace: Traces) -> None:
    with compared(trace("one call"), trace("one call"), 1, 3) as found:
        assert found.shown is not None
        assert found.shown.numbers == (1, 3)
        assert not found.shown.is_proportional


# What cancels to zero.


def shuffled(order: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    """A convolution with a bias in front of a normalisation; the samples come in some order."""

    def train() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(96, 1)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(order(torch.randn(32, 3, 6, 6))).pow(2).mean().backward()
        optimizer.step()

    return train


def test_a_bias_in_front_of_a_normalisation_is_rounding_and_no_difference(tmp_path: Path) -> None:
    plain = record(tmp_path / "plain.trace", shuffled(lambda x: x))
    flipped = record(tmp_path / "flipped.trace", shuffled(lambda x: x.flip(0)))

    with compared(plain, flipped) as found:
        assert found.shown is not None
        kinds = {match.pair.name_a: match.relation.kind for match in found.shown.matches}
        assert kinds == {
            "0.weight": "multiple", "0.bias": "rounding", "1.weight": "multiple",
            "1.bias": "multiple", "4.weight": "multiple", "4.bias": "multiple",
        }  # fmt: skip
        assert found.is_none
    assert "nothing but rounding in both (their sums cancel): 1 parameter (0.bias)" in text_of(
        plain, flipped
    )


# Two optimizers.


def adversaries(critics: int) -> Callable[[], None]:
    """A generator and a discriminator, which steps so many times as often."""

    def train() -> None:
        torch.manual_seed(0)
        generator, critic = nn.Linear(4, 6), nn.Linear(6, 1)
        first = torch.optim.SGD(generator.parameters(), lr=0.1)
        second = torch.optim.SGD(critic.parameters(), lr=0.0)
        for round in range(3):
            z = torch.randn(8, 4, generator=torch.Generator().manual_seed(round))
            for _ in range(critics):
                second.zero_grad()
                critic(generator(z).detach()).mean().backward()
                second.step()
            second.zero_grad()
            first.zero_grad()
            (-critic(generator(z)).mean()).backward()
            first.step()

    return train


def test_optimizers_that_step_at_other_numbers_are_compared_one_by_one(tmp_path: Path) -> None:
    one = record(tmp_path / "one.trace", adversaries(1))
    three = record(tmp_path / "three.trace", adversaries(3))

    with compared(one, three) as found:
        factors = {
            (moment.numbers, match.relation.factor)
            for moment in found.moments
            for match in moment.matches
            if match.pair.name_a.startswith("generator.")
        }
        # Steps 2, 4, 6 beside 4, 8, 12; the critic's lr is 0, so how often it steps is no matter.
        assert factors == {((2, 4), 1), ((4, 8), 1), ((6, 12), 1)}


def test_steps_of_two_optimizers_have_nothing_to_compare(tmp_path: Path) -> None:
    path = record(tmp_path / "one.trace", adversaries(1))

    assert headline(text_of(path, path, 1, 2)).strip() == (
        "Nothing to compare: no parameter is taken by both steps."
    )


# Levels of detail.


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("buffers", "No difference: the same gradients and the same steps."),
        ("structure", "Nothing to compare: no gradient was measured in both."),
    ],
)
def test_a_trace_of_less_detail_is_compared_by_what_it_has(
    detail: str, said: str, trace: Traces, tmp_path: Path
) -> None:
    with tracer.Recorder(tmp_path / "less.trace", detail=detail):
        Run().train()

    assert headline(text_of(trace("one call"), tmp_path / "less.trace")) == said


def test_a_frozen_layer_of_a_trace_without_values_is_no_measured_difference(
    trace: Traces, tmp_path: Path
) -> None:
    with tracer.Recorder(tmp_path / "less.trace", detail="structure"):
        Run(prepare=lambda model: model.first.requires_grad_(False)).train()

    text = text_of(trace("one call"), tmp_path / "less.trace")

    assert headline(text) == "Nothing to compare: no gradient was measured in both."
    assert "a gradient in A only: 2 parameters (first.bias, first.weight); frozen in B" in text
    assert not section(text, "where they part")
