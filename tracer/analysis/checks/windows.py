"""The windows of each optimizer, and those that are alike: a long run repeats itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tracer.events import Call, Edit, Event, Exchange, Reset, Step
from tracer.tracefile import Trace

__all__ = ["Kind", "Window", "buffers_of", "kinds_of", "windows_of"]


@dataclass(frozen=True)
class Window:
    """What happened between two steps of one optimizer; `events` ends with the later step."""

    step: Step
    events: tuple[Event, ...]

    @cached_property
    def calls(self) -> list[Call]:
        """The calls that may have filled a buffer."""
        return [e for e in self.events if isinstance(e, Call) and e.accumulates]

    @cached_property
    def buffers(self) -> frozenset[int]:
        return frozenset(buffers_of(self.step))


@dataclass(frozen=True)
class Kind:
    """Windows in which the same happened, in the same order, over the same graphs."""

    windows: tuple[Window, ...]

    @property
    def first(self) -> Window:
        return self.windows[0]

    @property
    def steps(self) -> list[int]:
        return [window.step.step for window in self.windows]


def buffers_of(step: Step) -> list[int]:
    """The leaves that an optimizer holds."""
    return [buffer for group in step.groups for buffer in group.get("buffers", ())]


def windows_of(trace: Trace) -> list[Window]:
    """The window of every step that was not left by an exception, in order.

    A step inside another one that read its buffers is a part of it: ZeRO has others do its work.
    """
    events = trace.events
    last: dict[int, int] = {}
    read: dict[int, int] = {}
    found: list[Window] = []
    for place, event in enumerate(events):
        if isinstance(event, Step) and event.outcome == "done":
            if read.get(event.step, event.optimizer) != event.optimizer:
                continue
            if trace.layout(event.layout).readings:
                read[event.step] = event.optimizer
            begin = last.get(event.optimizer, -1) + 1
            end = place + 1
            if not trace.layout(event.layout).readings:  # a closure: its calls come after
                end = _after(events, place, event.step)
            inside = tuple(events[begin:place] + events[place + 1 : end])
            found.append(Window(event, (*inside, event)))
            last[event.optimizer] = end - 1
    return found


def _after(events: Sequence[Event], place: int, step: int) -> int:
    """The end of what belongs to a step beyond its own place."""
    end = place + 1
    while end < len(events) and events[end].step == step:
        end += 1
    return end


def kinds_of(trace: Trace, windows: Sequence[Window]) -> list[Kind]:
    """Windows sorted by what happened in them; in the order of their first one."""
    found: dict[Hashable, list[Window]] = {}
    for window in windows:
        key = (window.step.optimizer, tuple(_form(trace, event) for event in window.events))
        found.setdefault(key, []).append(window)
    return [Kind(tuple(alike)) for alike in found.values()]


def _form(trace: Trace, event: Event) -> Hashable:
    """What makes two events the same but for their numbers."""
    if isinstance(event, Call):
        return ("call", event.layout, event.source, event.outcome, bool(event.again),
                trace.scalars(event))  # fmt: skip
    if isinstance(event, Reset):
        return ("reset", event.source, event.buffers)
    if isinstance(event, Edit):
        clips = float(event.details.get("coefficient", 1.0)) < 1
        return ("edit", event.kind, event.layout, event.source, clips)
    if isinstance(event, Step):
        return ("step", event.optimizer, event.layout, event.source)
    if isinstance(event, Exchange):
        return ("exchange", event.kind, event.op, event.layout, event.source)
    return ("use", event.wrapper, event.synchronises)
