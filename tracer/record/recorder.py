"""The list of instruments; start, stop, restore."""

from __future__ import annotations

import os
import platform
import time
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from tracer.errors import WrongUse
from tracer.events import DETAILS, RunInfo
from tracer.record.backward import BackwardCalls
from tracer.record.batches import Batches
from tracer.record.buffers import Resets, Steps
from tracer.record.collectives import Exchanges
from tracer.record.edits import Edits
from tracer.record.hookcalls import HookCalls
from tracer.record.job import Job
from tracer.record.journal import Journal
from tracer.record.modules import Modules
from tracer.record.owners import Owners
from tracer.record.simulation import Simulation
from tracer.record.sources import NodeWatch, SavedTensorHooks, Sources
from tracer.record.straight import Straight
from tracer.record.terms import Terms
from tracer.record.wrappers import Wrappers
from tracer.tracefile import TraceWriter
from tracer.version import __version__

__all__ = ["Recorder"]

_at_work: list[weakref.ref[Recorder]] = []


class Instrument(Protocol):
    """Watches one thing. `stop` puts everything back as it was before `start`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Switched(Instrument, Protocol):
    """An instrument that rests between recorded steps."""

    recording: bool


class Recorder:
    """Records the backward calls, steps and zero_grads of this process into a trace file.

        with tracer.Recorder("run.trace"):
            train()

    Args:
        output: the trace file; an older trace there is replaced.
        steps: the first and last optimizer step to record, from 1; None as the last means all.
        every: record one step in so many, from the first on.
        detail: what to measure of the gradients. "edges": each of them; "buffers": those in
            buffers, at the roots and between ranks; "structure": none, shapes are kept.
        terms: run each backward call once more for every term of its loss, to tell their shares.
        simulation: the other ranks of a job, where there are none in fact; started before.
        command, script, options: what to keep about the run.

    The run is not changed: if the tracer itself fails it stops recording, says why in `failure`,
    and the script goes on.

    Raises:
        WrongUse: another recorder is at work in this process, or `steps`, `every` or `detail`
            is not one of its values.
        TraceUnwritable: the trace cannot be written.
    """

    def __init__(
        self,
        output: str | Path,
        *,
        steps: tuple[int, int | None] | None = None,
        every: int = 1,
        detail: str = "edges",
        terms: bool = False,
        simulation: Simulation | None = None,
        command: Sequence[str] = (),
        script: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        first, last = steps or (1, None)
        if first < 1 or (last is not None and last < first):
            raise WrongUse(
                "wrong-use", f"steps {first}:{last}: expected A:B with 1 <= A <= B, e.g. 1:10"
            )
        if every < 1:
            raise WrongUse("wrong-use", f"every {every}: expected 1 or more")
        if detail not in DETAILS:
            expected = ", ".join(DETAILS)
            raise WrongUse("wrong-use", f"detail {detail!r}: expected one of {expected}")
        self.output = Path(output)
        self._terms, self._detail = terms, detail
        self.failure = ""
        self._first, self._last, self._every = first, last, every
        self._info = RunInfo(
            command=tuple(command),
            cwd=os.getcwd(),
            script=script,
            versions={
                "gradtrace": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            options={**(options or {}), "detail": detail},
            pid=os.getpid(),
        )
        self._simulation = simulation
        self._job = Job.here() if simulation is None else Job.simulated(simulation.world)
        self.output = self._job.file(self.output)
        self._started = False

    @property
    def rank(self) -> int:
        """The rank of this process in its job; 0 of a single process."""
        return self._job.rank

    def start(self) -> None:
        """Open the trace and begin to record."""
        other = _recorder_at_work()
        if other is not None:
            raise WrongUse(
                "wrong-use",
                f"a recorder is at work already, into {other.output}: stop it before another",
            )
        info = replace(self._info, started=time.time())
        self._info = self._job.describe(info, self.output)
        self._writer = TraceWriter(self.output, self._info)
        self._journal = Journal(self._writer, self._detail)
        modules = Modules(self._journal)
        saving = SavedTensorHooks()
        sources = Sources(self._journal, modules, saving)
        self._nodes = NodeWatch(sources, self._fail)
        parts = (self._journal, sources, modules)
        batches, hooks, owners = Batches(), HookCalls(sources.here), Owners(modules)
        straight = Straight()
        calls = BackwardCalls(*parts, self._nodes, batches, hooks, straight, self._fail)
        self._exchanges = Exchanges(*parts, self._fail, calls, owners, self._join, self._simulation)
        self._switched: list[Switched] = [
            calls,
            self._exchanges,
            Wrappers(*parts, self._fail, owners),
            Resets(*parts, self._fail),
            Edits(*parts, self._fail),
            Steps(*parts, straight, self._fail, self._next_step),
        ]
        if self._terms:
            self._switched.append(Terms(*parts, self._nodes, self._fail))
        self._instruments: list[Instrument] = [
            saving, self._nodes, hooks, batches, *self._switched,
        ]  # fmt: skip
        for instrument in self._instruments:
            instrument.start()
        self._started = True
        _at_work.append(weakref.ref(self))
        self._switch(self._is_wanted(1))

    def stop(self, *, status: str = "finished", exit_code: int | None = None) -> None:
        """Put everything back and close the trace. A second call does nothing."""
        if not self._started:
            return
        self._exchanges.close()
        self._release()
        self._info = replace(self._info, status=status, exit_code=exit_code, failure=self.failure)
        try:
            self._journal.close(info=self._info)
            self._move()
        except Exception as error:  # noqa: BLE001 - a full disk must not stop training
            self._note_failure(error)

    def _move(self) -> None:
        """A process that learnt its rank after the start takes its place beside the others."""
        place = self._job.file(self.output)
        if place != self.output and not place.exists():
            self.output.rename(place)
            self.output = place

    def _release(self) -> None:
        self._switch(False)
        for instrument in reversed(self._instruments):
            instrument.stop()
        self._started = False
        _at_work.clear()

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(status="finished" if kind is None else "crashed")

    def _join(self) -> None:
        """The process has joined a process group: now its rank is known for sure."""
        job = self._job.joined()
        if job != self._job:
            self._job = job
            self._info = job.describe(self._info, self.output)
            self._journal.describe(self._info)

    def _is_wanted(self, step: int) -> bool:
        if step < self._first or (self._last is not None and step > self._last):
            return False
        return (step - self._first) % self._every == 0

    def _next_step(self) -> None:
        self._exchanges.settle()
        self._journal.step += 1
        self._switch(not self.failure and self._is_wanted(self._journal.step))

    def _switch(self, on: bool) -> None:
        self._nodes.watch(on)
        for instrument in self._switched:
            instrument.recording = on

    def _fail(self, error: Exception) -> None:
        """Stop recording for good: a fault of ours is told at the end, and stops nothing else."""
        self._switch(False)
        self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if self.failure:
            return
        self.failure = "".join(traceback.format_exception_only(error)).strip()
        ours = traceback.extract_tb(error.__traceback__)
        if ours:
            self.failure += f" ({os.path.basename(ours[-1].filename)}:{ours[-1].lineno})"

    def _leave_child(self) -> None:
        """In a forked child the trace belongs to the parent: put everything back, write nothing."""
        if self._started:
            self._release()


def _recorder_at_work() -> Recorder | None:
    return _at_work[0]() if _at_work else None


def _after_fork() -> None:
    recorder = _recorder_at_work()
    if recorder is not None:
        recorder._leave_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
