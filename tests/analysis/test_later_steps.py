"""Bugs that begin after the step that is shown are pointed at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import tracer
from tests.analysis.scripts import Line, data
from tracer.analysis.explain import Explainer


def notes(script: Callable[[], object], folder: Path) -> list[str]:
    torch.manual_seed(0)
    path = folder / "run.trace"
    with tracer.Recorder(path):
        script()
    with tracer.load(path) as trace:
        (group,) = Explainer(trace).overview().groups
        return [note.words for note in group.members[0].notes if note.kind == "later-step"]


def steps(*calls: int, forget: bool = False) -> Callable[[], None]:
    """A script of so many calls in each step."""

    def script() -> None:
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for count in calls:
            for _ in range(count):
                x, y = data(6)
                F.mse_loss(model(x), y).backward()
            optimizer.step()
            if not forget:
                optimizer.zero_grad()

    return script


def test_a_forgotten_zero_grad_shows_from_the_second_step(tmp_path: Path) -> None:
    (words,) = notes(steps(1, 1, 1, forget=True), tmp_path)

    assert words == (
        "Step 2 differs: backward calls SUM, 2 calls, not divided (1 of them used by an earlier "
        "step already: no zero_grad since); see `explain --step 2`."
    )


def test_a_short_last_window_is_pointed_at(tmp_path: Path) -> None:
    (words,) = notes(steps(4, 4, 2), tmp_path)

    assert words.startswith("Step 3 differs: backward calls SUM, 2 calls, not divided")


def test_steps_that_are_put_together_alike_are_not_mentioned(tmp_path: Path) -> None:
    assert notes(steps(2, 2, 2), tmp_path) == []
