"""Random programs: with the recorder the same bits and words, and books that balance."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings

import tracer
from tests.record.test_scenarios import bits
from tests.trust.programs import Program, programs, run
from tracer.analysis.balance import check_balance

# While programs grow torch warns of them too.
pytestmark = pytest.mark.filterwarnings("ignore")

SEEN: Counter[str] = Counter()
"""What the programs of this process came to, for `tests.trust.figures`."""

ALWAYS = 60
LONG = 20_000


def judge(program: Program) -> None:
    """Assert that the recorder changed nothing and that every account adds up."""
    left, said = heard(program)
    state = torch.get_rng_state()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.trace")
        with tracer.Recorder(path) as recorder:
            left_recorded, said_recorded = heard(program)
        assert recorder.failure == ""
        assert said_recorded == said
        assert bits(left_recorded) == bits(left)
        assert torch.equal(torch.get_rng_state(), state)
        with tracer.load(path) as trace:
            report = check_balance(trace)
            calls = len(trace.calls)
    note(str(report))
    assert not report.imbalances
    SEEN.update(
        programs=1, calls=calls, fan_ins=report.fan_ins, buffers=report.buffers,
        captures=report.captures, hooked=report.explained, unchecked=report.unchecked,
        refused=len(said),
    )  # fmt: skip


def heard(program: Program) -> tuple[list[torch.Tensor], list[str]]:
    """What a program leaves, and all that torch said: exceptions and warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        left, said = run(program)
    return left, [*said, *(str(warning.message) for warning in warned)]


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=ALWAYS, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(programs())
def test_a_random_program_is_the_same_recorded_and_balances(program: Program) -> None:
    judge(program)


@pytest.mark.sweep
@settings(max_examples=LONG, deadline=None, suppress_health_check=QUIET, database=None)
@given(programs())
def test_many_random_programs_are_the_same_recorded_and_balance(program: Program) -> None:
    judge(program)
