"""One process that stands for all ranks says what real ranks say that work on equal samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ranks.table import record
from tests.ranks.trainings import BY_NAME, EQUAL, SIMULATED
from tracer.analysis.axis import Axis
from tracer.analysis.exact import said
from tracer.analysis.explain import Explanation, explainer_of
from tracer.cli import main
from tracer.runfiles import load_run

NAMES = [
    "ddp", "ddp, gradient_as_bucket_view", "ddp, no_sync", "ddp, two synchronised calls",
    "ddp, fp16_compress_hook", "ddp, a hook that adds", "ddp, a hook that adds and divides",
    "ddp, sum x ranks", "ddp, sum / all items", "ddp, all_reduce of the loss",
    "all_reduce by hand", "fsdp2", "fsdp2, divides by 2", "fsdp2, accumulates", "fsdp1",
    "fsdp1, use_orig_params", "hsdp", "tensor parallel", "fsdp2 and tensor parallel",
]  # fmt: skip


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.sweep)], ids="{} ranks".format
)
def world(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, world: int) -> tuple[Path, Path]:
    """The folders of the real job and of the simulated one."""
    names = [name for name in NAMES if world in BY_NAME[name].worlds]
    real, simulated = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("simulated")
    record(world, real, names, flags=[EQUAL])
    record(world, simulated, names, flags=[SIMULATED])
    return real, simulated


def explained(place: Path) -> list[Explanation]:
    file = place / "run.rank0.trace"
    with load_run(file) as run:
        overview = explainer_of(run, file).overview()
        return [one for group in overview.groups for one in group.members]


def rows(one: Explanation) -> list[tuple[int, str]]:
    """Items and weight of each rank's losses, those of ranks that one stands for as often."""
    found = [(row.items, said(row.weight)) for row in one.ledger.rows for _ in range(row.copies)]
    return sorted(found)


def ranks(one: Explanation) -> tuple[str, str]:
    axis: Axis = one.verdict.axes[-1]
    return axis.verdict, axis.words.partition(";")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_simulated_world_weighs_items_as_a_real_one_of_equal_ranks(
    jobs: tuple[Path, Path], world: int, name: str
) -> None:
    setup = BY_NAME[name]
    if world not in setup.worlds:
        pytest.skip(f"no such job of {world} ranks")
    real, simulated = ({one.name: one for one in explained(job / setup.folder)} for job in jobs)

    assert sorted(real) == sorted(simulated)
    for parameter, one in real.items():
        other = simulated[parameter]
        assert rows(other) == rows(one), parameter
        assert ranks(other)[0] == ranks(one)[0], parameter
        assert other.verdict.words == one.verdict.words


def test_the_json_of_a_simulated_run_says_so(
    jobs: tuple[Path, Path], world: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = jobs[1] / "ddp" / "run.rank0.trace"

    assert main(["explain", str(trace), "0.weight", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    job = document["job"]
    assert (job["simulated"], job["world"], len(job["ranks"])) == (True, world, 1)
    (filling,) = document["fillings"]
    (row,) = filling["rows"]
    assert (row["ranks"], row["weight"]["text"]) == (world, f"1/{4 * world}")
    (exchange,) = filling["buffer"]["exchanges"]
    assert (exchange["simulated"], exchange["error"]) == (True, None)
