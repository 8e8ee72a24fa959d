"""Gradients that no call wrote into the buffer: put there by hand, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F

import tracer
from tests.analysis.recorded import explain, weights
from tests.analysis.scripts import Line, data
from tracer.analysis.explain import Explainer
from tracer.views.explain import overview_text
from tracer.views.terminal import Ink


def overview(script: Callable[[], object], folder: Path) -> str:
    torch.manual_seed(0)
    path = folder / "run.trace"
    with tracer.Recorder(path):
        script()
    with tracer.load(path) as trace:
        return overview_text(Explainer(trace).overview(), trace, Ink())


def assigned() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data(6)
    (given,) = torch.autograd.grad(F.mse_loss(model(x), y, reduction="sum"), [model.w])
    model.w.grad = given / 6
    optimizer.step()


def test_a_run_that_only_assigns_gradients_has_an_answer(tmp_path: Path) -> None:
    text = overview(assigned, tmp_path)

    assert "=> the mean over all 6 items." in text
    assert "x 1/6  put there by hand, from autograd.grad" in text


def test_gradients_added_up_by_hand(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        total = torch.zeros_like(model.w)
        for _ in range(4):
            x, y = data(6)
            total += torch.autograd.grad(F.mse_loss(model(x), y), [model.w])[0]
        model.w.grad = total / 4
        optimizer.step()

    found = explain(script, tmp_path)

    assert weights(found) == [(6, Fraction(1, 24))] * 4
    assert found.verdict.words == "the mean over all 24 items"


def test_what_was_changed_beyond_a_factor_names_the_call(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = data(6)
        (given,) = torch.autograd.grad(F.mse_loss(model(x), y), [model.w])
        model.w.grad = given + torch.randn_like(given)
        optimizer.step()

    words = "it was put there by hand, and is no multiple of what call 1 gave"
    assert f"not known: {words}" in overview(script, tmp_path)


def test_a_run_that_uses_gradients_itself_says_so(tmp_path: Path) -> None:
    def script() -> None:
        w = torch.randn(3, requires_grad=True)
        for _ in range(2):
            (given,) = torch.autograd.grad(w.square().sum(), [w])
            w.data -= 0.1 * given

    text = overview(script, tmp_path)

    assert text.startswith("The 2 recorded backward calls wrote no .grad: autograd.grad hands")
