"""One process against two ranks of a real job: the same batch, split over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import pytest

from tests.diff.runs import Run, headline, record, section
from tracer.analysis.diff.difference import Difference, compare
from tracer.analysis.diff.sides import Side
from tracer.analysis.job import seen_from
from tracer.runfiles import file_of_rank, load_run
from tracer.views.diff import difference_text
from tracer.views.terminal import Ink

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traces of one process and of a job of two ranks, in all its ways."""
    folder = tmp_path_factory.mktemp("ranks")
    record(folder / "one.trace", Run())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", "-m", "tests.diff.rank_runs", folder],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@contextmanager
def against_one(folder: Path, name: str) -> Iterator[Difference]:
    with ExitStack() as stack:
        sides = []
        for label, path in (
            ("A", folder / "one.trace"),
            ("B", file_of_rank(folder / f"{name}.trace", 0)),
        ):
            run = stack.enter_context(load_run(path))
            sides.append(Side(seen_from(run, path), label, None, run.ranks))
        yield compare(sides[0], sides[1])


def text_of(folder: Path, name: str) -> str:
    with against_one(folder, name) as found:
        return difference_text(found, Ink())


def test_ddp_over_equal_ranks_is_no_difference(folder: Path) -> None:
    with against_one(folder, "mean") as found:
        assert found.is_none
        (parting,) = found.exhibits[0].partings
        assert {stage.name: stage.b.words for stage in parting.stages}["ranks"] == (
            "2 ranks, x 1/2 each"
        )
        assert [(s.name, s.a, s.b) for s in found.settings if s.name == "ranks"] == [
            ("ranks", "1", "2")
        ]


def test_a_global_count_that_ddp_averages_again_is_one_over_the_ranks(folder: Path) -> None:
    text = text_of(folder, "global_count")

    assert headline(text) == "Gradients and steps 1/2 x as large in B."
    assert section(text, "where they part")[1] == (
        "then x 1/32 in the loss, x 1/2 at the ranks; together: 32 x 1/32 x 1/2 = 1/2; what is "
        "left is at the ranks"
    )


def test_calls_that_nobody_divides_are_a_factor_on_ranks_too(folder: Path) -> None:
    """Each call is averaged over the ranks, with what the buffer held before."""
    with against_one(folder, "not_divided") as found:
        assert found.shown is not None
        assert [cluster.factor for cluster in found.shown.clusters] == [2]
        assert found.exhibits[0].explains


def test_ranks_of_different_counts_weigh_their_items_differently(folder: Path) -> None:
    with against_one(folder, "ragged") as found:
        (parting,) = found.exhibits[0].partings
        # 12 and 4 samples of 2 elements, each a mean of its own, averaged over 2 ranks.
        assert [(w.items, w.b, w.ratio) for w in parting.weighings] == [
            (24, Fraction(1, 48), Fraction(2, 3)), (8, Fraction(1, 16), Fraction(2)),
        ]  # fmt: skip
    text = text_of(folder, "ragged")
    assert "one of rank 1, call 1 (8 items) weighs 2 x as much in B as in A" in text
    assert headline(text) == (
        "Different directions: items do not weigh the same against one another."
    )
