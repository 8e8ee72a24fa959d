"""What is in a trace: how many of everything, and how many bytes each costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tracer.events import ROW_WIDTH, SMALL, Call, Layout, RunInfo
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
    """Count what a trace holds; reads every layout once and no measurement."""
    calls = Counter(call.layout for call in trace.calls)
    layouts = {id: trace.layout(id) for id in calls}
    structures = {layout.structure for layout in layouts.values() if layout.structure is not None}
    sizes = {id: len(trace.structure(id).nodes) for id in structures}
    measured = sum(count * _bytes(layouts[id]) for id, count in calls.items())
    size = sum(file.stat().st_size for file in _files(trace.path))
    return Contents(
        run=trace.info,
        calls=len(trace.calls),
        entries=dict(Counter(call.entry for call in trace.calls)),
        nested=sum(call.nested_in is not None for call in trace.calls),
        failed=sum(call.outcome != "done" for call in trace.calls),
        steps=len({step.step for step in trace.steps}),
        resets=len(trace.resets),
        structures=len(structures),
        nodes=sum(count * sizes.get(layouts[id].structure or 0, 0) for id, count in calls.items()),
        contributions=sum(count * len(layouts[id].contributions) for id, count in calls.items()),
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


def _bytes(layout: Layout) -> int:
    """What one call of this layout measures, in bytes of its blobs."""
    small = (
        elements * (2 if is_complex else 1) * (8 if is_double else 4)
        for elements, is_complex, is_double in layout.rows
        if elements <= SMALL
    )
    scalars = sum(8 * len(state.numbers) for state in layout.states)
    return 4 * ROW_WIDTH * len(layout.rows) + sum(small) + scalars


def _calls_per_step(calls: list[Call], steps: set[int]) -> dict[int, int]:
    """How many steps have how many backward calls in their window."""
    windows = Counter(call.step for call in calls if call.nested_in is None and call.step in steps)
    return dict(sorted(Counter(windows[step] for step in steps).items()))
