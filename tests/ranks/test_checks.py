"""Every check of ranks finds its mistake, in real processes, and says nothing of correct code."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ranks.bugs import CASES
from tests.ranks.bugs import Case as Training
from tests.ranks.table import record
from tracer.analysis.checks.case import Case
from tracer.analysis.checks.catalogue import known_checks
from tracer.analysis.checks.run import examine
from tracer.analysis.exact import is_same
from tracer.runfiles import file_of_rank
from tracer.tracefile import load

WORLD = 2
OF_RANKS = [slug for slug, check in known_checks().items() if check.section == "Ranks"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("job")
    record(WORLD, place, [case.name for case in CASES], "tests.ranks.bugs")
    return place


@pytest.mark.parametrize("training", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("seen_from", range(WORLD))
def test_a_mistake_is_found_by_its_check_alone_and_correct_code_by_none(
    folder: Path, training: Training, seen_from: int
) -> None:
    with ExitStack() as stack:
        files = dict.fromkeys(range(WORLD), folder / training.setup.folder / "run.trace")
        traces = {r: stack.enter_context(load(file_of_rank(f, r))) for r, f in files.items()}
        found = examine([Case(traces[seen_from], traces)], OF_RANKS).findings

    assert {finding.check for finding in found} == ({training.slug} if training.slug else set())
    if training.factor is not None:
        assert is_same(found[0].factor, training.factor)
    if training.slug and found[0].place:
        assert found[0].place.file.endswith(("bugs.py", "trainings.py"))


def test_each_check_of_ranks_has_a_mistake_to_find() -> None:
    assert set(OF_RANKS) == {case.slug for case in CASES if case.slug}


@pytest.mark.parametrize("seen_from", range(WORLD))
def test_a_step_that_others_make_a_part_of_is_no_second_one(folder: Path, seen_from: int) -> None:
    """ZeroRedundancyOptimizer: the optimizer of its own part finds what it found."""
    with load(file_of_rank(folder / "ZeRO" / "run.trace", seen_from)) as trace:
        found = examine([Case(trace)]).findings

    assert {finding.check for finding in found} & {"missing-zero-grad", "stepped-twice"} == set()
