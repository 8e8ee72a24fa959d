"""The answers for a run: in which order, with which names, and what is said beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tracer.analysis.explain import Explainer
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.views.cards import cards
from tracer.views.explain import overview_text
from tracer.views.terminal import Ink


def answers(script: Callable[[], object], folder: Path) -> str:
    torch.manual_seed(0)
    with tracer.Recorder(folder / "run.trace"):
        script()
    with tracer.load(folder / "run.trace") as trace:
        return overview_text(Explainer(trace).overview(), trace, Ink())


def with_gradient_of_inputs() -> None:
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        inputs = torch.randn(8, 5, requires_grad=True)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def test_the_inputs_of_a_model_come_after_its_parameters(tmp_path: Path) -> None:
    text = answers(with_gradient_of_inputs, tmp_path)

    assert text.index("bias, weight   at step 1") < text.index("inputs   filled 2 times")


@pytest.mark.parametrize(("inside", "sample"), [
    ("sum", "One sample moves this weight by lr x 1/8 ="),
    ("mean", "One sample (the mean of its 3 elements) moves this weight by lr x 1/8 ="),
])  # fmt: skip
def test_a_sample_that_is_the_mean_of_its_elements_is_told_from_their_sum(
    inside: str, sample: str, tmp_path: Path
) -> None:
    def script() -> None:
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        each = model(torch.randn(8, 5)).square()
        (each.sum(1) if inside == "sum" else each.mean(1)).mean().backward()
        optimizer.step()

    assert sample in answers(script, tmp_path)


def test_losses_of_one_line_are_told_apart_by_what_reduces_them(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        out = model(torch.randn(8, 5))
        labels = torch.zeros(8, dtype=torch.long)
        loss = F.cross_entropy(out, labels) + out.square().mean() / 10 - 0.2 * out.abs().mean()
        loss.backward()
        optimizer.step()

    text = answers(script, tmp_path)

    lines = [line for line in text.splitlines() if " in loss = " in line]
    names = [line.split(" in loss = ")[0].strip() for line in lines]
    assert sorted(names) == ["cross_entropy", "mean 1", "mean 2"]


def multiplied(*factors: float) -> Callable[[], None]:
    def script() -> None:
        model = nn.Linear(5, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for factor in factors:
            optimizer.zero_grad()
            (model(torch.randn(8, 5)).square().mean() * factor).backward()
            optimizer.step()

    return script


@pytest.mark.parametrize("factor", ["nan", "inf"])
def test_a_loss_that_is_multiplied_by_no_number_has_no_weights(factor: str, tmp_path: Path) -> None:
    text = answers(multiplied(1, float(factor)), tmp_path)

    assert f"Step 2 differs: not known: it is multiplied by {factor}; see" in text
    assert "Step 2 (SGD) consumed gradients that are not finite." in text


def test_steps_of_finite_gradients_are_not_noted(tmp_path: Path) -> None:
    assert "not finite" not in answers(multiplied(1, 2), tmp_path)


def test_factors_of_a_loss_from_several_lines_are_told_one_by_one(tmp_path: Path) -> None:
    def script() -> None:
        w = torch.ones(3, requires_grad=True)
        loss = w.sum() / 3
        loss = loss * 32768
        loss.backward()

    assert "3 items, 1 each  x 1/3 x 32768 in the loss" in answers(script, tmp_path)


def test_a_picture_tells_an_input_from_parameters(tmp_path: Path) -> None:
    answers(with_gradient_of_inputs, tmp_path)

    with tracer.load(tmp_path / "run.trace") as trace:
        folded = fold(build(trace))
    shown = cards(folded)
    faces = {
        data["parameters"][0].rpartition(".")[2]: shown[key].face
        for key, data in folded.nodes(data=True) if data["kind"] in ("buffer", "buffers")
    }  # fmt: skip
    assert faces == {"inputs": "input", "weight": "buffer", "bias": "buffer"}
