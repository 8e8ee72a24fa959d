"""What is in a trace: how many of everything, and how many bytes each costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tracer.events import Call, RunInfo
from tracer.tracefile import Trace

__all__ = ["Contents", "contents_of"]


@dataclass(frozen=True)
class Contents:
    """The counts of one trace.

    `nodes` and `contributions` are those of all recorded backward calls together, `structures` how
    many different graphs they have. `calls_per_step` says for each number of backward calls in a
    step's window how many steps have it; nested calls are part of theirs. `bytes` is the size of
    the file, `per_step` that size over the number of steps (0 without any), `measured_per_call`
    what the measurements of one call take, on average: the part that does not repeat.
    """

    run: RunInfo
    calls: int
    entries: dict[str, int]
    nested: int
    failed: int
    steps: int
    resets: int
    structures: int
    nodes: int
    contributions: int
    buffers: int
    parameters: int
    modules: int
    calls_per_step: dict[int, int]
    bytes: int
    per_step: int
    measured_per_call: int


def contents_of(trace: Trace) -> Contents:
    """Count what a trace holds; reads no layout and no measurement."""
    calls = Counter(call.layout for call in trace.calls)
    layouts = {id: (trace.sizes[id], count) for id, count in calls.items() if id in trace.sizes}
    measured = sum(count * layout.measured for layout, count in layouts.values())
    size = sum(file.stat().st_size for file in _files(trace.path))
    return Contents(
        run=trace.info,
        calls=len(trace.calls),
        entries=dict(Counter(call.entry for call in trace.calls)),
        nested=sum(call.nested_in is not None for call in trace.calls),
        failed=sum(call.outcome != "done" for call in trace.calls),
        steps=len({step.step for step in trace.steps}),
        resets=len(trace.resets),
        structures=len({layout.structure for layout, _ in layouts.values()}),
        nodes=sum(count * layout.nodes for layout, count in layouts.values()),
        contributions=sum(count * layout.contributions for layout, count in layouts.values()),
        buffers=len(trace.buffers),
        parameters=sum(buffer.is_parameter for buffer in trace.buffers.values()),
        modules=len(trace.modules),
        calls_per_step=_calls_per_step(trace.calls, {step.step for step in trace.steps}),
        bytes=size,
        per_step=size // len(trace.steps) if trace.steps else 0,
        measured_per_call=measured // max(len(trace.calls), 1),
    )


def _files(path: Path) -> list[Path]:
    """The trace, and the write-ahead log beside one that was never closed."""
    return [file for file in (path, Path(f"{path}-wal")) if file.exists()]


def _calls_per_step(calls: list[Call], steps: set[int]) -> dict[int, int]:
    """How many steps have how many backward calls in their window."""
    windows = Counter(call.step for call in calls if call.nested_in is None and call.step in steps)
    return dict(sorted(Counter(windows[step] for step in steps).items()))
