"""Jobs of several ranks made by hand: one small trace file for each."""

from __future__ import annotations

from pathlib import Path

from tracer.events import RunInfo
from tracer.runfiles import file_of_rank
from tracer.tracefile import TraceWriter


def write_rank(
    output: Path, rank: int, world: int, job: str = "job 1", started: float = 0.0
) -> Path:
    """An empty trace of one rank."""
    path = file_of_rank(output, rank)
    siblings = tuple(file_of_rank(output, other).name for other in range(world))
    info = RunInfo(
        rank=rank, world=world, job=job, siblings=siblings, status="finished", started=started
    )
    TraceWriter(path, info).close(info)
    return path


def write_job(output: Path, world: int, job: str = "job 1", started: float = 0.0) -> list[Path]:
    return [write_rank(output, rank, world, job, started) for rank in range(world)]
