"""Every way of training on several ranks, in real gloo processes, with and without the recorder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.ranks.books import added, calls_with, is_close, meetings, numbers, seen_by, unbalanced
from tracer.events import Measurement
from tracer.runfiles import Run, load_run
from tracer.tracefile import Trace

ROOT = Path(__file__).parents[2]

PLAIN = [
    "ddp", "ddp_small_buckets", "ddp_bucket_view", "ddp_static_graph", "ddp_find_unused",
    "ddp_no_sync", "ddp_join", "ddp_uneven_batches", "ddp_channels_last", "ddp_allreduce_hook",
    "loss_reduced_in_place", "zero_redundancy",
]  # fmt: skip
"""DDP divides by the ranks, and exchanges what the optimizer consumes."""

HALVED = ["ddp_fp16_hook", "ddp_bf16_hook", "ddp_builtin_fp16_hook"]
MANUAL = ["manual_sum", "manual_mean", "manual_async", "manual_flat", "manual_coalesced"]
IN_GRAPH = ["nn_all_reduce", "nn_all_gather", "functional_all_reduce", "functional_autograd"]
SHARDED = [
    "fsdp2", "fsdp2_root_only", "fsdp2_divide_factor", "fsdp2_second_axis", "fsdp2_accumulates",
    "hsdp", "fsdp1", "fsdp1_orig_params",
]  # fmt: skip
PARALLEL = ["tensor_parallel", "fsdp2_and_tensor_parallel"]
SETUPS = [
    *PLAIN,
    *HALVED,
    "ddp_power_sgd",
    "ddp_sum_hook",
    *MANUAL,
    *IN_GRAPH,
    *SHARDED,
    *PARALLEL,
    "ddp_sparse",
]

WORLDS = [2, pytest.param(1, marks=pytest.mark.sweep), pytest.param(4, marks=pytest.mark.sweep)]

Job = Callable[[int], Path]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The folder that a job of so many ranks left, which ran all setups one after another."""

    @lru_cache
    def run(world: int) -> Path:
        folder = tmp_path_factory.mktemp(f"world{world}")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*launcher, f"--nproc-per-node={world}", "-m", "tests.ranks.setups", folder],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return run


def outcome(folder: Path, name: str, rank: int) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"{name}.rank{rank}.json").read_text())
    return found


def opened(folder: Path, name: str) -> Run:
    return load_run(folder / f"{name}.rank*.trace")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SETUPS)
def test_ranks_end_alike_to_the_bit_with_as_many_collectives(
    job: Job, name: str, world: int
) -> None:
    for rank in range(world):
        found = outcome(job(world), name, rank)
        assert found.get("failure") == "", found
        assert found["same"]
        assert found["tensors"]
        without, recorded = found["collectives"]  # type: ignore[misc]
        assert without == recorded


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SETUPS)
def test_what_left_is_what_entered(job: Job, name: str, world: int) -> None:
    with opened(job(world), name) as run:
        assert len(run.ranks) == world
        together = meetings(run)
        assert [words for meeting in together for words in unbalanced(meeting)] == []
        assert {seen.fact.outcome for met in together for seen in met.values()} <= {"done"}


def names(trace: Trace) -> dict[int, str]:
    return {id: buffer.name for id, buffer in trace.buffers.items()}


def received(trace: Trace, call: object) -> dict[int, Measurement]:
    """What each buffer's node received in a call."""
    layout = trace.layout(call.layout)  # type: ignore[attr-defined]
    nodes = trace.structure(layout.structure).nodes  # type: ignore[arg-type]
    rows = trace.measurements(call)  # type: ignore[arg-type]
    return {
        nodes[r.node].buffer: rows[r.row]  # type: ignore[index, misc]
        for r in layout.receipts
        if nodes[r.node].buffer is not None
    }


def readings(trace: Trace, call: object, moment: str) -> dict[int, Measurement]:
    rows = trace.measurements(call)  # type: ignore[arg-type]
    found = trace.layout(call.layout).readings  # type: ignore[attr-defined]
    return {r.buffer: rows[r.row] for r in found if r.moment == moment}  # type: ignore[index]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [*PLAIN, "ddp_sum_hook"])
def test_ddp_divides_what_a_buffer_has_and_consumes_what_left(
    job: Job, name: str, world: int
) -> None:
    divisor = 1 if name == "ddp_sum_hook" else world
    with opened(job(world), name) as run:
        for trace in run.ranks.values():
            exchanged = 0
            for call, inside in calls_with(trace):
                got, before = received(trace, call), readings(trace, call, "before")
                after = readings(trace, call, "after")
                for seen in inside:
                    if not seen.pieces or seen.pieces[0][0].buffer is None:
                        continue  # static_graph and find_unused exchange who was used
                    exchanged += 1
                    for piece, entered in seen.of("entered"):
                        parts = [p[piece.buffer] for p in (got, before) if piece.buffer in p]
                        own = added([numbers(m) for m in parts]) if parts else (0.0,) * 9
                        divided = tuple(value / divisor for value in own)
                        assert entered is not None
                        assert is_close(numbers(entered), divided, sum(m.norm for m in parts))
                    for piece, left in seen.of("left"):
                        assert left is not None
                        if piece.buffer in after:  # a parameter that no rank used keeps none
                            size = left.norm
                            assert is_close(numbers(left), numbers(after[piece.buffer]), size)
            assert exchanged


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [*PLAIN, *HALVED, "ddp_sum_hook"])
def test_every_gradient_of_ddp_is_found_in_a_bucket(job: Job, name: str, world: int) -> None:
    with opened(job(world), name) as run:
        for trace in run.ranks.values():
            synchronised = {use.order for use in trace.uses if use.synchronises}
            assert synchronised
            for call, inside in calls_with(trace):
                use = max((u for u in trace.uses if u.order < call.order), key=lambda u: u.order)
                owned = [p.buffer for s in inside for p, _ in s.of("left") if p.buffer is not None]
                expected = sorted(trace.buffers) if use.synchronises else []
                assert sorted(owned) == expected
                wrappers = {s.fact.wrapper for s in inside if s.of("left")[0][0].buffer is not None}
                assert wrappers == ({use.wrapper} if use.synchronises else set())


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", MANUAL)
def test_gradients_that_are_exchanged_by_hand_are_found(job: Job, name: str, world: int) -> None:
    with opened(job(world), name) as run:
        for trace in run.ranks.values():
            found = [
                piece.buffer
                for fact in trace.exchanges
                for piece in trace.layout(fact.layout).pieces
                if piece.moment == "left" and piece.content == "gradient"
            ]
            assert sorted(found) == sorted([*trace.buffers] * 3)
            assert all(fact.call is None for fact in trace.exchanges)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_root_only", "fsdp2_second_axis", "hsdp"])
def test_shards_of_all_ranks_make_up_the_gradient(job: Job, name: str, world: int) -> None:
    """What the ranks consume, put together, is the mean of what their nodes received."""
    with opened(job(world), name) as run:
        whole, shards = {}, {}
        for trace in run.ranks.values():
            last = trace.steps[-1]
            call = trace.calls[-1]
            for buffer, measured in received(trace, call).items():
                whole.setdefault(trace.buffers[buffer].name, []).append(numbers(measured))
            rows = trace.measurements(last)
            for reading in trace.layout(last.layout).readings:
                key = trace.buffers[reading.buffer].name
                shards.setdefault(key, []).append(numbers(rows[reading.row]))  # type: ignore[index]
        copies = max(world // 2, 1) if name == "hsdp" else 1
        assert sorted(shards) == sorted(whole)
        for key, parts in shards.items():
            mean = tuple(value / world for value in added(whole[key]))
            found = tuple(value / copies for value in added(parts))
            assert is_close(found, mean, max(map(abs, mean)))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["fsdp1", "fsdp1_orig_params", "fsdp2_divide_factor"])
def test_shards_are_consumed_as_they_left_divided_once_more(
    job: Job, name: str, world: int
) -> None:
    with opened(job(world), name) as run:
        reduced, consumed, divisors = {}, {}, set()
        for trace in run.ranks.values():
            step = trace.steps[-1]
            rows = trace.measurements(step)
            for reading in trace.layout(step.layout).readings:
                key = trace.buffers[reading.buffer].name
                consumed.setdefault(key, []).append(numbers(rows[reading.row]))  # type: ignore[index]
            for seen in seen_by(trace):
                if seen.fact.step != step.step or seen.fact.wrapper is None:
                    continue
                divisors.add(trace.wrappers[seen.fact.wrapper].details["postdivide"])
                for piece, left in seen.of("left"):
                    if left is not None:
                        key = trace.buffers[piece.buffer].name  # type: ignore[index]
                        reduced.setdefault(key, []).append(numbers(left))
        if world == 1 and name == "fsdp2_divide_factor":
            assert not reduced  # nobody to exchange with
            return
        (divisor,) = divisors
        assert sorted(reduced) == sorted(consumed)
        for key, parts in consumed.items():
            expected = tuple(value / (divisor or 1) for value in added(reduced[key]))
            assert is_close(added(parts), expected, max(map(abs, expected)))
