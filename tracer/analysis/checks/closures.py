"""Closures: what an optimizer that evaluates one several times in a step found in its buffers."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.analysis.checks.case import Case
from tracer.analysis.checks.windows import buffers_of
from tracer.events import Call, Step

__all__ = ["Evaluations", "evaluations", "inside"]


@dataclass(frozen=True)
class Evaluations:
    """The calls of a closure inside one step, all of which add to what was there before."""

    step: Step
    calls: tuple[Call, ...]
    buffers: tuple[int, ...]


def inside(case: Case) -> dict[int, list[Call]]:
    """Steps, by their order, that read nothing as they began, and the calls made inside them.

    A step that merely finds nothing has no such calls.
    """
    found: dict[int, list[Call]] = {}
    empty = {s.step: s for s in case.trace.steps if not case.trace.layout(s.layout).readings}
    for call in case.trace.calls:
        step = empty.get(call.step)
        if step is not None and call.order > step.order and call.outcome == "done":
            found.setdefault(step.order, []).append(call)
    return found


def evaluations(case: Case) -> dict[int, Evaluations]:
    """Steps, by their order, whose closure was evaluated again with nothing emptied in between.

    Only of an optimizer that evaluates it up to `max_iter` times (LBFGS): of any other several
    calls are one evaluation, in parts. The same line made them all, and none but the first found
    its buffers empty.
    """
    found: dict[int, Evaluations] = {}
    made = inside(case)
    for step in case.trace.steps:
        is_again = any(group.get("max_iter", 1) > 1 for group in step.groups)
        if step.outcome != "done" or not is_again:
            continue
        calls = [c for c in made.get(step.order, ()) if c.accumulates and c.nested_in is None]
        buffers = tuple(
            buffer
            for buffer in buffers_of(step)
            if len(calls) > 1 and all(_adds_to(case, call, buffer) for call in calls[1:])
        )
        if buffers and len({call.source for call in calls}) == 1:
            found[step.order] = Evaluations(step, tuple(calls), buffers)
    return found


def _adds_to(case: Case, call: Call, buffer: int) -> bool:
    """Whether a call found something in a buffer, and added to it."""
    archive = case.books.archive
    return archive.writes(call, buffer) and not archive.finds_nothing(call, buffer, "before")
