"""The files of a job are found from a folder, from a pattern, and from any one of them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.ranks.jobs import write_job, write_rank
from tests.ranks.sketch import ddp_job
from tracer.cli import main
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


def test_a_process_that_was_killed_while_it_closed_its_file_is_no_damage(tmp_path: Path) -> None:
    """Half of a write lies in the file, and what it was before in a journal beside it."""
    path = write_rank(tmp_path / "run.trace", 0, 2)
    (tmp_path / "left").mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN")
        rows = [(f"a name {number}", "x" * 3000) for number in range(100)]
        db.executemany("INSERT INTO run VALUES (?, ?)", rows)
        for file in (path.name, f"{path.name}-journal"):
            shutil.copy(tmp_path / file, tmp_path / "left" / file)

    with load_run(tmp_path / "left") as run:
        assert list(run.ranks) == [0]
        assert run.ranks[0].info.status == "finished"


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


def test_a_single_process_beside_a_job_is_left_out(tmp_path: Path) -> None:
    write_job(tmp_path / "run.trace", 2)
    info = RunInfo(script="train.py")
    TraceWriter(tmp_path / "alone.trace", info).close(info)

    with load_run(tmp_path) as run:
        assert (list(run.ranks), run.left_out) == ([0, 1], ("alone.trace",))


def test_what_a_later_job_left_of_an_earlier_one_is_left_out(tmp_path: Path) -> None:
    """4 ranks, then 2 with the same output: ranks 2 and 3 are of the first job."""
    write_job(tmp_path / "run.trace", 4, job="earlier")
    write_job(tmp_path / "run.trace", 2, job="later", started=10.0)

    with load_run(tmp_path) as run:
        assert (list(run.ranks), run.missing, run.world) == ([0, 1], {}, 2)
        assert run.left_out == ("run.rank2.trace", "run.rank3.trace")


def test_a_damaged_file_of_nobody_is_left_out_and_one_of_the_job_is_missing(tmp_path: Path) -> None:
    files = write_job(tmp_path / "run.trace", 2)
    damage(files[1])
    (tmp_path / "other.trace").write_bytes(b"nothing")

    with load_run(tmp_path) as run:
        assert (list(run.ranks), list(run.missing)) == ([0], [1])
        assert run.left_out == ("other.trace",)


@pytest.mark.parametrize("command", ["info", "explain", "graph", "check", "diff"])
def test_every_command_that_reads_takes_a_folder_and_says_what_it_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    job = ddp_job(tmp_path, missing=[1])
    info = RunInfo(script="train.py")
    TraceWriter(tmp_path / "alone.trace", info).close(info)
    more = {"graph": ["-o", str(tmp_path / "x.dot")], "diff": [str(job)]}

    assert main([command, str(job), *more.get(command, [])]) in (0, 1)

    said = "".join(capfd.readouterr())
    assert "rank 1 is missing" in said
    assert "left out, of other runs: alone.trace" in said
