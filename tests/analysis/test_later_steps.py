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


def test_what_is_said_of_one_parameter_holds_for_all_beside_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with tracer.Recorder(tmp_path / "run.trace"):
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        slow = {"params": net[0].parameters(), "lr": 0.01}
        decayed = {"params": [net[2].weight], "weight_decay": 0.1}
        optimizer = torch.optim.SGD([slow, decayed, {"params": [net[2].bias]}], lr=0.1)
        F.mse_loss(net(torch.randn(6, 3)), torch.randn(6, 2)).backward()
        optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        groups = Explainer(trace).overview().groups
        found = {
            tuple(member.name for member in group.members): group.members[0].optimizer.lr
            for group in groups
        }
    assert found == {("0.bias", "0.weight"): 0.01, ("2.bias",): 0.1, ("2.weight",): 0.1}


def test_what_adam_is_not_said_to_do_does_not_part_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with tracer.Recorder(tmp_path / "run.trace"):
        layers = [torch.nn.Linear(3, 3) for _ in range(3)]
        groups = [{"params": one.parameters(), "lr": 10.0**-n} for n, one in enumerate(layers)]
        optimizer = torch.optim.AdamW(groups)
        torch.nn.Sequential(*layers)(torch.randn(6, 3)).square().mean().backward()
        optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        (group,) = Explainer(trace).overview().groups
    assert len(group.members) == 6
