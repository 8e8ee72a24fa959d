"""The fixture `trace` in somebody's own tests, run by pytest itself: all of them by one pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLED = "tracer.pytest_plugin" in {entry.value for entry in entry_points(group="pytest11")}
PLUGIN = () if INSTALLED else ("-p", "tracer.pytest_plugin")
"""What loads the plugin, where nobody has installed it."""

LIGHT = """
import sys


def test_light():
    assert "tracer.pytest_plugin" in sys.modules
    assert not {"torch", "networkx", "sqlite3", "tracer.tracefile"} & set(sys.modules)
"""

OWN = """
import pytest


@pytest.fixture
def trace():
    return "mine"


def test_own(trace):
    assert trace == "mine"
"""

TRAINING = """
import pytest


def train(parts=1, divide=1):
    import torch  # not when tests are collected: another file says that the plugin loads none

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in torch.randn(8, 3).chunk(parts):
        (model(x).pow(2).mean() / divide).backward()
    optimizer.step()
    return "trained"


def test_accumulation(trace):
    from tracer.testing import assert_equivalent, assert_mean_over_items

    one = trace(train)
    four = trace(train, 4, divide=4)
    assert one.result == "trained"
    assert one.path != four.path
    assert_equivalent(one, four)
    assert_mean_over_items(four)


def test_block(trace):
    with trace(name="block", steps=(2, 2)) as run:
        train()
        train()
    assert run.path.name == "block.trace"
    assert [step.step for step in run.trace.steps] == [2]


def test_virtual_gpus(trace):
    import torch

    with trace(gpus=2) as run:
        assert torch.cuda.device_count() == 2
        torch.ones(2, device="cuda", requires_grad=True).sum().backward()
    assert not torch.cuda.is_available()
    assert len(run.trace.calls) == 1


def test_forgotten(trace):
    from tracer.testing import assert_equivalent

    assert_equivalent(trace(train), trace(train, 4))


def test_raises(trace):
    with pytest.raises(ZeroDivisionError), trace() as run:
        train()
        1 / 0
    assert run.trace.info.status == "crashed"
    assert len(run.trace.steps) == 1
"""


@dataclass(frozen=True)
class Outcome:
    """What pytest said of somebody's tests."""

    output: str

    def passed(self, test: str) -> bool:
        return any(line.startswith("PASSED") and f"::{test}" in line for line in self.lines)

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def has_in_order(self, *parts: str) -> bool:
        lines = iter(self.lines)
        return all(any(part in line for line in lines) for part in parts)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A folder with no `tracer` beside the tests, and one process: operators register once."""
    folder = tmp_path_factory.mktemp("somebody")
    files = {"test_a_light.py": LIGHT, "test_own.py": OWN, "test_training.py": TRAINING}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--rootdir", ".", *PLUGIN],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert "1 failed, 6 passed" in done.stdout, done.stdout + done.stderr
    return Outcome(done.stdout)


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("test_accumulation", id="a function is recorded and its result kept"),
        pytest.param("test_block", id="code inside a block is recorded"),
        pytest.param("test_virtual_gpus", id="a block has virtual GPUs"),
        pytest.param("test_raises", id="what the code raises goes through"),
        pytest.param("test_own", id="a fixture of the same name is the user's"),
        pytest.param("test_light", id="the plugin alone loads nothing that takes time"),
    ],
)
def test_in_a_project_of_somebody_else(test: str, outcome: Outcome) -> None:
    assert outcome.passed(test)


def test_a_failure_prints_the_explanation_and_where_the_traces_are(outcome: Outcome) -> None:
    assert outcome.has_in_order(
        "AssertionError: the two runs do not consume the same gradients",
        "Gradients and steps 4 x as large in B.",
        "B = 4 x A for 2 of 2 parameters, at step 1",
        "Captured gradtrace call",
        "run1.trace",
        "run2.trace",
    )
    assert "tracer/testing.py" not in outcome.output
