"""The fixture `trace` in somebody's own tests, run by pytest itself."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
INSTALLED = "tracer.pytest_plugin" in {entry.value for entry in entry_points(group="pytest11")}
PLUGIN = () if INSTALLED else ("-p", "tracer.pytest_plugin")
"""What loads the plugin, where nobody has installed it."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of a test there is no `tracer` beside it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


TRAINING = """
import torch
from tracer.testing import assert_equivalent, assert_mean_over_items


def train(parts=1, divide=1):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in torch.randn(8, 3).chunk(parts):
        (model(x).pow(2).mean() / divide).backward()
    optimizer.step()
    return "trained"
"""


def run_tests(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    """Somebody's test file, in a pytest and a process of its own: operators are registered once."""
    pytester.makepyfile(TRAINING + body)
    return pytester.runpytest_subprocess(*PLUGIN, *options)


def test_a_function_is_recorded_and_its_result_kept(pytester: pytest.Pytester) -> None:
    found = run_tests(
        pytester,
        """
def test_accumulation(trace):
    one = trace(train)
    four = trace(train, 4, divide=4)
    assert one.result == "trained"
    assert one.path != four.path
    assert_equivalent(one, four)
    assert_mean_over_items(four)
""",
    )

    found.assert_outcomes(passed=1)


def test_code_inside_a_block_is_recorded(pytester: pytest.Pytester) -> None:
    found = run_tests(
        pytester,
        """
def test_block(trace):
    with trace(name="block", steps=(2, 2)) as run:
        train()
        train()
    assert run.path.name == "block.trace"
    assert [step.step for step in run.trace.steps] == [2]


def test_virtual_gpus(trace):
    with trace(gpus=2) as run:
        assert torch.cuda.device_count() == 2
        torch.ones(2, device="cuda", requires_grad=True).sum().backward()
    assert not torch.cuda.is_available()
    assert len(run.trace.calls) == 1
""",
    )

    found.assert_outcomes(passed=2)


def test_a_failure_prints_the_explanation_and_where_the_traces_are(
    pytester: pytest.Pytester,
) -> None:
    found = run_tests(
        pytester,
        """
def test_forgotten(trace):
    assert_equivalent(trace(train), trace(train, 4))
""",
    )

    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(
        [
            "E * the two runs do not consume the same gradients",
            "E * Gradients and steps 4 x as large in B.",
            "E * B = 4 x A for 2 of 2 parameters, at step 1",
            "*Captured gradtrace call*",
            "recorded *run1.trace",
            "recorded *run2.trace",
        ]
    )
    assert "tracer/testing.py" not in found.stdout.str()


def test_what_the_code_raises_goes_through(pytester: pytest.Pytester) -> None:
    found = run_tests(
        pytester,
        """
import pytest


def test_raises(trace):
    with pytest.raises(ZeroDivisionError), trace() as run:
        train()
        1 / 0
    assert run.trace.info.status == "crashed"
    assert len(run.trace.steps) == 1
""",
    )

    found.assert_outcomes(passed=1)


def test_a_fixture_of_the_same_name_is_the_users(pytester: pytest.Pytester) -> None:
    found = run_tests(
        pytester,
        """
import pytest


@pytest.fixture
def trace():
    return "mine"


def test_own(trace):
    assert trace == "mine"
""",
    )

    found.assert_outcomes(passed=1)


def test_the_plugin_alone_loads_neither_torch_nor_anything_that_takes_time(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
import sys


def test_light():
    assert "tracer.pytest_plugin" in sys.modules
    assert not {"torch", "networkx", "sqlite3", "tracer.tracefile"} & set(sys.modules)
"""
    )

    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)
