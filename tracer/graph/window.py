"""Which backward calls a graph is built of: the window of a step, one call, or all there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tracer.errors import NothingRecorded, UnknownName
from tracer.events import Call, Step
from tracer.tracefile import Trace

__all__ = ["Window", "choose", "nothing_recorded", "of_calls", "size_of"]

MOST_CALLS = 24
"""Calls shown of a run without steps: a loop of 10,000 says no more than its first few."""

MOST_NODES = 200_000
"""Autograd nodes of a graph, over all its calls; the first call is always there."""


@dataclass(frozen=True)
class Window:
    """The calls to show, each with its number among the recorded ones, from 1.

    `note` says in words what was left out, "" if nothing was.
    """

    calls: tuple[tuple[int, Call], ...]
    steps: tuple[Step, ...] = ()
    step: int | None = None
    note: str = ""


def nothing_recorded(trace: Trace) -> NothingRecorded:
    """That a trace holds no backward call, and why, as far as it tells."""
    why = "the script made none while it was recorded"
    if trace.info.failure:
        why = f"the tracer gave up before it had written one: {trace.info.failure}"
    elif trace.info.status == "running":
        why = "the script is at work still, or was killed before its first"
    return NothingRecorded("nothing-recorded", f"{trace.path} holds no backward call: {why}")


def choose(trace: Trace, step: int | None = None, call: int | None = None) -> Window:
    """The window asked for; without a wish the first complete step, or else every call.

    `call` counts the recorded calls from 1; with `step` those of its window.

    Raises:
        NothingRecorded: the trace holds no backward call.
        UnknownName: no such step or call; with slug unknown-step or unknown-call.
    """
    numbered = list(enumerate(trace.calls, start=1))
    if not numbered:
        raise nothing_recorded(trace)
    if step is not None:
        window = _window_of(trace, numbered, step)
        return window if call is None else _one_call(window, call, f"in the window of step {step}")
    if call is not None:
        return _one_call(Window(tuple(numbered)), call, "in this trace")
    first = _first_complete_step(trace)
    if first is not None:
        return _window_of(trace, numbered, first)
    return _capped(trace, numbered, None, ())


def of_calls(trace: Trace, numbers: Collection[int], step: int | None) -> Window:
    """These calls, counted from 1, and what a step did with them."""
    calls = [(number, call) for number, call in enumerate(trace.calls, 1) if number in numbers]
    return _capped(trace, calls, step, tuple(s for s in trace.steps if s.step == step))


def _first_complete_step(trace: Trace) -> int | None:
    with_calls = {call.step for call in trace.calls if call.outcome == "done"}
    done = (s.step for s in trace.steps if s.outcome == "done" and s.step in with_calls)
    return min(done, default=None)


def _window_of(trace: Trace, numbered: list[tuple[int, Call]], step: int) -> Window:
    calls = [(number, call) for number, call in numbered if call.step == step]
    if not calls:
        known = sorted({call.step for _, call in numbered})
        raise UnknownName(
            "unknown-step",
            f"no backward call of step {step} was recorded; recorded are those of {_ranges(known)}",
        )
    steps = tuple(s for s in trace.steps if s.step == step)
    return _capped(trace, calls, step, steps)


def _one_call(window: Window, call: int, where: str) -> Window:
    if not 1 <= call <= len(window.calls):
        raise UnknownName(
            "unknown-call",
            f"no backward call {call} {where}: there are {len(window.calls)}, counted from 1",
        )
    return Window((window.calls[call - 1],), step=window.step)


def _capped(
    trace: Trace, calls: list[tuple[int, Call]], step: int | None, steps: tuple[Step, ...]
) -> Window:
    """As many of the first calls as can be held, and a note on the rest."""
    kept: list[tuple[int, Call]] = []
    nodes = 0
    for number, call in calls:
        nodes += size_of(trace, call)
        if kept and (nodes > MOST_NODES or (step is None and len(kept) == MOST_CALLS)):
            break
        kept.append((number, call))
    note = ""
    if len(kept) < len(calls):
        note = f"the first {len(kept)} of {len(calls):,} backward calls"
    return Window(tuple(kept), steps, step, note)


def size_of(trace: Trace, call: Call) -> int:
    """The autograd nodes of a call."""
    structure = trace.layout(call.layout).structure
    return len(trace.structure(structure).nodes) if structure is not None else 0


def _ranges(numbers: list[int]) -> str:
    """The numbers with runs drawn together: "1-4, 10"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(texts[:8]) + (", ..." if len(texts) > 8 else "")
