"""The files of a job are found from a folder, from a pattern, and from any one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ranks.jobs import write_job, write_rank
from tracer.errors import TraceUnreadable
from tracer.events import RunInfo
from tracer.runfiles import load_run
from tracer.tracefile import TraceWriter


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def test_any_file_of_a_job_brings_the_others(tmp_path: Path) -> None:
    files = write_job(tmp_path / "run.trace", 3)

    for file in files:
        with load_run(file) as run:
            assert (list(run.ranks), run.missing, run.world) == ([0, 1, 2], {}, 3)
            assert [trace.path for trace in run.ranks.values()] == files


def test_a_folder_with_one_job_is_that_job(tmp_path: Path) -> None:
    write_job(tmp_path / "run.trace", 2)

    with load_run(tmp_path) as run:
        assert list(run.ranks) == [0, 1]


def test_a_pattern_chooses_among_the_ranks(tmp_path: Path) -> None:
    write_job(tmp_path / "run.trace", 4)

    with load_run(tmp_path / "run.rank[12].trace") as run:
        assert (list(run.ranks), run.missing, run.world) == ([1, 2], {}, 4)


def test_a_single_process_is_a_run_of_one_rank(tmp_path: Path) -> None:
    info = RunInfo(script="train.py")
    TraceWriter(tmp_path / "run.trace", info).close(info)

    with load_run(tmp_path / "run.trace") as run:
        assert (list(run.ranks), run.missing, run.world) == ([0], {}, 1)


def test_what_is_wrong_with_a_rank_is_said_and_the_rest_is_used(tmp_path: Path) -> None:
    files = write_job(tmp_path / "run.trace", 4)
    files[1].unlink()
    damage(files[2])
    write_rank(tmp_path / "run.trace", 3, 4, job="job of yesterday")

    with load_run(files[0]) as run:
        assert list(run.ranks) == [0]
        assert list(run.missing) == [1, 2, 3]
        assert "does not exist" in run.missing[1]
        assert "is damaged" in run.missing[2]
        assert "is of another run: expected rank 3 of 4" in run.missing[3]


def test_a_damaged_file_is_no_reason_not_to_find_the_others(tmp_path: Path) -> None:
    files = write_job(tmp_path / "run.trace", 2)
    damage(files[0])

    with load_run(files[0]) as run:
        assert list(run.ranks) == [1]
        assert "is damaged" in run.missing[0]


def test_a_damaged_file_without_a_job_is_an_error(tmp_path: Path) -> None:
    files = write_job(tmp_path / "run.trace", 2)
    damage(files[0])
    files[1].unlink()

    with pytest.raises(TraceUnreadable) as caught:
        load_run(files[0])
    assert caught.value.slug == "damaged-trace"


@pytest.mark.parametrize(
    ("place", "slug"), [("", "several-runs"), ("*.trace", "several-runs"), ("x*", "missing-file")]
)
def test_a_place_that_is_not_one_job_is_refused(tmp_path: Path, place: str, slug: str) -> None:
    write_job(tmp_path / "one.trace", 2, job="one")
    write_job(tmp_path / "two.trace", 2, job="two")

    with pytest.raises(TraceUnreadable) as caught:
        load_run(tmp_path / place)
    assert caught.value.slug == slug


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(TraceUnreadable, match="no trace is there"):
        load_run(tmp_path)
