"""One side of a comparison: a run, its parameters, and each time that one of them was consumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tracer.analysis.callfacts import CallFacts, Tensor
from tracer.analysis.exact import rounding
from tracer.analysis.explain import Explainer, Explanation
from tracer.analysis.history import History
from tracer.analysis.ledger import Books, Ledger, steps_of
from tracer.analysis.notes import Optimizer, optimizer_of
from tracer.analysis.verdicts import Verdict, verdict_of
from tracer.errors import UnknownName
from tracer.events import Buffer, Call, Measurement, Reading, Step
from tracer.graph.window import nothing_recorded
from tracer.tracefile import Trace

__all__ = ["Moment", "Side"]

EPSILON = {"float64": 6e-8, "float32": 6e-8, "bfloat16": 4e-3, "float16": 5e-4}
"""Half a unit in the last place; projections of float64 are kept in float32."""

ERRORS = 30
"""Rounding errors of a sum are taken to be at most so many times the norm of what was added."""

HOPS = 4


@dataclass(frozen=True)
class Moment:
    """One time that a buffer was consumed by a step, or, of a run without steps, was filled.

    `number` is that of the step, or of the filling. `is_held` is no where the step is not one of
    its own: of an optimizer that does not have it.
    """

    number: int
    step: Step | None
    ledger: Ledger | None = None
    is_held: bool = True


class Side:
    """One run that is compared, and which step of it is wanted, if one is.

    Of a job of several ranks `trace` is the one whose gradients are compared; the ledgers have the
    items of all `ranks`.
    """

    def __init__(
        self,
        trace: Trace,
        label: str,
        step: int | None = None,
        ranks: Mapping[int, Trace] | None = None,
    ) -> None:
        if not trace.calls:
            raise nothing_recorded(trace)
        self.trace = trace
        self.label = label
        self.step = step
        self.ranks = ranks
        self.books = Books(trace, ranks)
        self.names = self.books.names
        self._rounding: dict[int, float] = {}
        self._moments: dict[int, list[Moment]] = {}
        self._check_step()

    def _check_step(self) -> None:
        known = [step.step for step in self.trace.steps]
        if self.step is not None and self.step not in known:
            shown = ", ".join(map(str, known[:6])) + (" ..." if len(known) > 6 else "")
            raise UnknownName(
                "unknown-step",
                f"{self.trace.path}: no step {self.step}; "
                f"{f'recorded are {shown}' if known else 'no optimizer step was recorded'}",
            )

    @cached_property
    def parameters(self) -> Mapping[str, Buffer]:
        """Every buffer that a call reached or an optimizer holds, by name, in order."""
        held = {b for step in self.trace.steps for g in step.groups for b in g.get("buffers", ())}
        names = Counter(self.names.buffer(id) for id in self.trace.buffers)
        return {
            self.names.buffer(id) if names[self.names.buffer(id)] == 1 else f"b{id}": buffer
            for id, buffer in self.trace.buffers.items()
            if id in held or id in self._written
        }

    @cached_property
    def _written(self) -> set[int]:
        layouts = {call.layout: call for call in self.trace.calls if call.accumulates}
        return {
            id
            for id in self.trace.buffers
            if any(self.books.archive.writes(call, id) for call in layouts.values())
        }

    def moments(self, buffer: int) -> list[Moment]:
        """Each time it was consumed, in order; only the one asked for if a step was."""
        if buffer not in self._moments:
            steps = [s for s in steps_of(self.trace, buffer) if s.outcome == "done"]
            found = [Moment(s.step, s) for s in steps if self.step in (None, s.step)]
            if not self.trace.steps and buffer in self._written:
                fills = self.books.fills(buffer)
                found = [Moment(n, None, ledger) for n, ledger in enumerate(fills, start=1)]
            self._moments[buffer] = found
        return self._moments[buffer]

    def ledger(self, buffer: int, moment: Moment) -> Ledger:
        return moment.ledger or self.books.ledger(buffer, moment.step)

    def verdict(self, buffer: int, moment: Moment) -> Verdict:
        return verdict_of(self.ledger(buffer, moment), self.trace)

    def explanation(self, buffer: int, moment: Moment) -> Explanation:
        """All that `explain` knows of it then."""
        explainer = Explainer(self.trace, self.ranks)
        step = moment.step.step if moment.step is not None else None
        found = explainer.parameter(self.names.buffer(buffer), step)
        return found[0] if moment.step is not None else found[moment.number - 1]

    def optimizer(self, buffer: int, moment: Moment) -> Optimizer | None:
        """As of the ledger, without making it: only the step and its groups are asked for."""
        if moment.step is None:
            return None
        empty = History(buffer, moment.step.order, None, ())
        return optimizer_of(Ledger(buffer, moment.step, empty, ()))

    def options(self, buffer: int, moment: Moment) -> dict[str, Any]:
        """The options of the parameter group that holds it, without its members."""
        groups = moment.step.groups if moment.step is not None else ()
        group = next((g for g in groups if buffer in g.get("buffers", ())), {})
        return {key: value for key, value in group.items() if key not in ("buffers", "frozen")}

    def content(self, buffer: int, moment: Moment) -> Tensor | None:
        """What was consumed; None where there was no gradient."""
        if moment.step is not None:
            readings = self.trace.layout(moment.step.layout).readings
            if readings:
                return self.books.archive.reading(moment.step, buffer, "consumed")
        return self.ledger(buffer, moment).history.content

    def value(self, buffer: int) -> Measurement | None:
        """The parameter itself, as the first recorded step found it."""
        return self._values.get(buffer)

    @cached_property
    def _values(self) -> dict[int, Measurement]:
        found: dict[int, Measurement] = {}
        for step in self.trace.steps:
            readings = [r for r in self.trace.layout(step.layout).readings if r.moment == "value"]
            if readings:
                found |= self._measured(step, readings)
        return found

    def _measured(self, step: Step, readings: list[Reading]) -> dict[int, Measurement]:
        rows = self.trace.measurements(step)
        return {r.buffer: rows[r.row] for r in readings if r.row is not None}

    # What rounding does to a gradient.

    def tolerance(self, buffer: int, moment: Moment) -> float:
        """Of the coarsest precision in which a gradient was computed on its way to the buffer."""
        content = self.content(buffer, moment)
        own = rounding(content.form.dtype) if content is not None else 0.0
        return max([own, *(self._coarsest(call) for call in self.calls(moment))])

    def _coarsest(self, call: Call) -> float:
        if call.layout not in self._rounding:
            forms = {c.form for c in self.trace.layout(call.layout).contributions}
            self._rounding[call.layout] = max(
                (rounding(self.trace.forms[form].dtype) for form in forms), default=0.0
            )
        return self._rounding[call.layout]

    def noise(self, buffer: int, moment: Moment) -> float:
        """How large a gradient rounding alone may make where a sum should cancel to zero.

        The bias before a normalisation, and that of a key in attention, have the gradient zero;
        what they get is rounding. Only sums of what was received can be told so.
        """
        writing = [c for c in self.calls(moment) if self.books.archive.writes(c, buffer)]
        return sum(self._summed(self.books.archive.call(c.order), buffer) for c in writing[:16])

    def _summed(self, facts: CallFacts, buffer: int) -> float:
        found, stack = 0.0, [(facts.writers[buffer], HOPS)]
        while stack:
            node, hops = stack.pop()
            for sent in facts.arriving.get(node, ()):
                kind = facts.effect(sent).kind
                if kind == "sums":
                    found += _largest_error(facts, sent.edge.sender)
                elif kind in ("moves", "reduces") and hops:
                    stack.append((sent.edge.sender, hops - 1))
        return found

    def calls(self, moment: Moment) -> list[Call]:
        """The calls of the window that ends at a moment, without those inside others."""
        if moment.step is None:
            entries = moment.ledger.history.entries if moment.ledger else ()
            orders = {entry.call for entry in entries}
            return [call for call in self.trace.calls if call.order in orders]
        return self._windows.get(moment.number, [])

    @cached_property
    def _windows(self) -> dict[int, list[Call]]:
        found: dict[int, list[Call]] = {}
        for call in self.trace.calls:
            if call.accumulates and call.outcome == "done" and call.nested_in is None:
                found.setdefault(call.step, []).append(call)
        return found


def _largest_error(facts: CallFacts, node: int) -> float:
    received = [t for t in facts.received.get(node, {}).values() if t.measured is not None]
    return sum(
        ERRORS * EPSILON.get(t.form.dtype, 6e-8) * t.measured.norm
        for t in received
        if t.measured is not None
    )
