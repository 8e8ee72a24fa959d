"""The trace files of one job, a file per rank, opened as one run."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tracer.errors import TraceUnreadable
from tracer.events import RunInfo
from tracer.tracefile import Trace, load

__all__ = ["Run", "file_of_rank", "files_named", "load_run", "ranks_of_job", "siblings_of"]

RANKED = re.compile(r"(?P<stem>.*)\.rank(?P<rank>\d+)(?P<ending>\.[^.]*)")


def file_of_rank(output: Path, rank: int) -> Path:
    """Where a rank writes: run.trace is run.rank1.trace for rank 1."""
    return output.with_suffix(f".rank{rank}{output.suffix}")


def ranks_of_job(output: Path, job: str) -> list[Path]:
    """The files beside `output` that ranks of a job wrote, those of low ranks first."""
    traces = list(_readable(_neighbours(file_of_rank(output, 0), itself=True)))
    found = sorted((t.info.rank, t.path) for t in traces if t.info.job == job)
    for trace in traces:
        trace.close()
    return [path for _, path in found]


def siblings_of(path: Path, rank: int, world: int) -> tuple[str, ...]:
    """The names of the files of all ranks, from that of one; () where it is not called so."""
    match = RANKED.fullmatch(path.name)
    if match is None or int(match["rank"]) != rank or world < 2:
        return ()
    return tuple(f"{match['stem']}.rank{other}{match['ending']}" for other in range(world))


class Run:
    """One job: the traces of its ranks, as far as they can be read.

    `ranks` has them in order; `missing` says for each other rank of the job what is wrong with its
    file. A single process is a run of one rank. `left_out` are the names of other traces that lie
    in the folder that was asked for. Use as a context manager, or `close`.
    """

    def __init__(
        self, ranks: dict[int, Trace], missing: dict[int, str], left_out: tuple[str, ...] = ()
    ) -> None:
        self.ranks = dict(sorted(ranks.items()))
        self.missing = dict(sorted(missing.items()))
        self.left_out = left_out

    @property
    def world(self) -> int:
        """The number of ranks that the job had."""
        return self.first.info.world

    @property
    def first(self) -> Trace:
        """The trace of the lowest rank that can be read."""
        return next(iter(self.ranks.values()))

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with ExitStack() as stack:
            for trace in self.ranks.values():
                stack.callback(trace.close)


def load_run(path: str | Path) -> Run:
    """Open all the traces of a job.

    Args:
        path: a trace file, of a single process or of any rank; a folder that holds the files of one
            job; or a pattern such as `run.rank*.trace`, which chooses among its ranks. Traces of
            single processes beside a job, and what is left of an earlier job that it wrote over,
            are left out.

    Raises:
        TraceUnreadable: nothing there can be read, or it belongs to several jobs (several-runs).
    """
    place = Path(path)
    if place.is_dir():
        return _one_job(place, files_named(path))
    if _is_pattern(path):
        return _one_job(place, files_named(path), only_these=True)
    return _run_of(place)


def files_named(path: str | Path) -> list[Path]:
    """What `load_run` may read of a path: of a file itself first, then those of other ranks."""
    place = Path(path)
    if place.is_dir():
        return sorted(place.glob("*.trace"))
    if _is_pattern(path):
        return sorted(map(Path, glob.glob(str(path))))
    return [place, *_neighbours(place)]


def _is_pattern(path: str | Path) -> bool:
    return glob.has_magic(str(path)) and not Path(path).exists()


def _run_of(path: Path) -> Run:
    """The run that one file is of; where that file is damaged, its neighbours tell."""
    try:
        trace = load(path)
    except TraceUnreadable:
        neighbour = next(_readable(_neighbours(path)), None)
        if neighbour is None or path.name not in neighbour.info.siblings:
            raise
        trace = neighbour
    return _with_siblings(trace)


def _neighbours(path: Path, itself: bool = False) -> list[Path]:
    """The files that are called like those of the other ranks."""
    match = RANKED.fullmatch(path.name)
    if match is None:
        return []
    name = re.compile(f"{re.escape(match['stem'])}\\.rank\\d+{re.escape(match['ending'])}")
    if not path.parent.is_dir():
        return []
    return sorted(
        other
        for other in path.parent.iterdir()
        if name.fullmatch(other.name) and (itself or other != path)
    )


def _with_siblings(trace: Trace) -> Run:
    info = trace.info
    if len(info.siblings) < 2:
        return Run({info.rank: trace}, {})
    ranks, missing = {info.rank: trace}, {}
    for rank, name in enumerate(info.siblings):
        if rank == info.rank:
            continue
        found, why = _open_rank(trace.path.parent / name, rank, info)
        if found is not None:
            ranks[rank] = found
        else:
            missing[rank] = why
    return Run(ranks, missing)


def _open_rank(path: Path, rank: int, info: RunInfo) -> tuple[Trace | None, str]:
    """The trace of a rank, or why there is none."""
    try:
        trace = load(path)
    except TraceUnreadable as error:
        return None, str(error)
    if trace.info.job != info.job or trace.info.rank != rank:
        trace.close()
        return None, f"{path} is of another run: expected rank {rank} of {info.world}"
    return trace, ""


def _readable(paths: Iterable[Path]) -> Iterator[Trace]:
    for path in paths:
        try:
            yield load(path)
        except TraceUnreadable:
            continue


def _one_job(place: Path, paths: list[Path], only_these: bool = False) -> Run:
    """The job that the files belong to: there must be one, beside single processes."""
    traces = list(_readable(paths))
    with ExitStack() as stack:
        for trace in traces:
            stack.callback(trace.close)
        if not traces:
            if paths:
                load(paths[0])  # says what is wrong with it
            raise TraceUnreadable(
                "missing-file",
                f"{place}: no trace is there; expected .trace files that `gradtrace trace` wrote",
            )
        jobs = _jobs(traces)
        if len(jobs) > 1:
            names = ", ".join(sorted(found[0].path.name for found in jobs)[:4])
            raise TraceUnreadable(
                "several-runs",
                f"{place} holds the traces of {len(jobs)} runs ({names}...): name one of the "
                "files, the others of its run are found through it",
            )
        run = _with_siblings(load(jobs[0][0].path))
    if only_these:
        _keep(run, {path.name for path in paths})
    own = {trace.path.name for trace in run.ranks.values()}
    own.update(name for rank, name in enumerate(run.first.info.siblings) if rank in run.missing)
    run.left_out = tuple(path.name for path in paths if path.name not in own)
    return run


def _jobs(traces: list[Trace]) -> list[list[Trace]]:
    """The runs among traces; a single process, or a job written over by a later one, is none.

    Unless there is nothing else.
    """
    runs: dict[str, list[Trace]] = {}
    for trace in traces:
        runs.setdefault(trace.info.job or trace.path.name, []).append(trace)
    jobs = [found for found in runs.values() if len(found[0].info.siblings) > 1]
    whole = [found for found in jobs if not any(_wrote_over(late, found) for late in jobs)]
    return whole or jobs or list(runs.values())


def _wrote_over(late: list[Trace], early: list[Trace]) -> bool:
    """Whether a later job has files where an earlier one had its own."""
    names = set(early[0].info.siblings) & {trace.path.name for trace in late}
    is_later = late[0].info.started > early[0].info.started
    return late is not early and is_later and bool(names)


def _keep(run: Run, names: set[str]) -> None:
    """Only the ranks that were asked for; what is wrong with the others is of no interest."""
    siblings = run.first.info.siblings
    for rank in [rank for rank, trace in run.ranks.items() if trace.path.name not in names]:
        run.ranks.pop(rank).close()
    for rank in [rank for rank in run.missing if siblings[rank] not in names]:
        del run.missing[rank]
