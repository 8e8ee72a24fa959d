"""What is there of a job of several ranks: which files, how each process ended, what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracer.runfiles import Run
from tracer.tracefile import Trace

__all__ = ["Job", "RankState", "job_of", "seen_from"]


@dataclass(frozen=True)
class RankState:
    """One rank: its file, and how its process ended.

    `status` is that of `RunInfo`, or "missing"; `why` says then what is wrong with the file.
    """

    rank: int
    file: str
    status: str
    calls: int = 0
    steps: int = 0
    exit_code: int | None = None
    why: str = ""

    @property
    def is_complete(self) -> bool:
        return self.status == "finished" and not self.exit_code


@dataclass(frozen=True)
class Job:
    """All ranks of a job. `is_simulated`: there is one process, which stands for all of them.

    `left_out` are the files of other runs in the folder that was read.
    """

    world: int
    launcher: str
    backend: str
    is_simulated: bool
    ranks: tuple[RankState, ...]
    left_out: tuple[str, ...] = ()

    @property
    def incomplete(self) -> tuple[RankState, ...]:
        """The ranks whose process did not end well, or whose file is missing."""
        return tuple(state for state in self.ranks if not state.is_complete)


def job_of(run: Run) -> Job:
    info = run.first.info
    states = [
        RankState(
            rank, trace.path.name, trace.info.status, len(trace.calls), len(trace.steps),
            trace.info.exit_code,
        )
        for rank, trace in run.ranks.items()
    ]  # fmt: skip
    names = dict(enumerate(info.siblings))
    states += [
        RankState(rank, names.get(rank, ""), "missing", why=why)
        for rank, why in run.missing.items()
    ]
    states.sort(key=lambda state: state.rank)
    return Job(info.world, info.launcher, info.backend, info.simulated, tuple(states), run.left_out)


def seen_from(run: Run, path: str | Path) -> Trace:
    """The rank that a job is looked at from: that of the file, or else the first with most steps.

    Under Join, or where one was killed, ranks have made more or fewer.
    """
    named = [trace for trace in run.ranks.values() if trace.path == Path(path)]
    filled = [trace for trace in run.ranks.values() if trace.calls]
    filled.sort(key=lambda trace: -len(trace.steps))
    return next(iter([*named, *filled]), run.first)
