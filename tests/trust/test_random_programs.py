"""Random programs: with the recorder the same bits and words, and books that balance."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.trust.batches import judge, judge_many
from tests.trust.programs import Program, program_of, programs

# While programs grow torch warns of them too.
pytestmark = pytest.mark.filterwarnings("ignore")

ALWAYS = 60
MANY = 4_000
"""Of the 20,000 that `python -m tests.trust.figures programs --examples 20000` judges."""

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=ALWAYS, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(programs())
def test_a_random_program_is_the_same_recorded_and_balances(program: Program) -> None:
    judge(program)


def test_a_program_is_known_by_its_number() -> None:
    assert program_of(7) == program_of(7) != program_of(8)


def test_a_program_that_fails_and_one_that_dies_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADTRACE_TEST_FAULTS", "3 fails, 5 dies alone, 6 dies recorded")

    many = judge_many(8)

    assert many.seen["programs"] == 5
    assert [(failure.number, failure.ours) for failure in many.failures] == [
        (3, True), (5, False), (6, True),
    ]  # fmt: skip
    assert "on purpose" in many.failures[0].what
    assert many.failures[1].what == "died of SIGABRT while it ran alone"
    assert many.failures[2].what == "died of SIGABRT while it was recorded"
    assert many.failures[2].text == str(program_of(6))


@pytest.mark.sweep
def test_many_random_programs_are_the_same_recorded_and_balance() -> None:
    many = judge_many(MANY)

    print(many)
    assert not many.failures, "\n\n".join(map(str, many.failures))
    assert many.seen["programs"] == MANY
