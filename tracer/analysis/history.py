"""What happened to a buffer up to a step, in order: who wrote it, scaled it, emptied it, used it.

A change that nobody announced (`p.grad /= 4` in user code) is found because what one event left is
not what the next one met; if the two are proportional, the factor is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import Union

from tracer.analysis.callfacts import CallFacts, Tensor
from tracer.analysis.exact import DOUBLE, is_zero, proportion, rounding, tidy
from tracer.columns import leaves_of
from tracer.events import Call, Edit, Event, Exchange, Measurement, Piece, Reset, Step, Use
from tracer.semantics.effects import Exact
from tracer.tracefile import Trace

__all__ = [
    "Archive",
    "Book",
    "Change",
    "Entry",
    "History",
    "beginning",
    "fills_of",
    "history_of",
    "ratio",
    "reaching",
    "touches",
    "used_again",
]

MOST_LOOKED_AT = 200
"""Events before a content that nobody wrote, among which it is looked for."""

WORDS = {
    "clip_grad_norm": "clipped by norm",
    "clip_grad_value": "clipped by value",
    "unscale": "unscaled",
}


@dataclass(frozen=True)
class Change:
    """Something that multiplied all that was in the buffer, or replaced it.

    `factor` is None where it was no multiple. `order` is that of the event, or of the last one
    before, if nobody announced it (`is_announced`); `before` is then the event that noticed.
    """

    kind: str
    words: str
    factor: Exact | None
    order: int
    source: int | None = None
    is_announced: bool = True
    noticed: int | None = None
    is_measured: bool = True


@dataclass(frozen=True)
class Entry:
    """A contribution of one call that is still in the buffer, and what changed it there.

    `call` is None for content that was there before anything was recorded, or was put there
    `by_hand`; of that the `candidates` are the calls since the last step that gave a gradient of
    this buffer. `consumed` are the orders of earlier steps that used it already. `rank` is where it
    comes from: `call` is then that rank's. `is_rest`: that rank's file is missing, and this is what
    is left over of an exchange. In a simulation it stands for `copies` equal ranks, the members of
    the groups `met`.
    """

    call: int | None
    tensor: Tensor | None
    source: int | None = None
    changes: tuple[Change, ...] = ()
    consumed: tuple[int, ...] = ()
    rank: int | None = None
    is_rest: bool = False
    copies: int = 1
    met: tuple[tuple[int, ...], ...] = ()
    by_hand: bool = False
    candidates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shared:
    """An exchange that all of the content passed: what each rank put in was added, and came back.

    `ranks` took part; the files of `missing` were not there, `without` put in nothing but zeros.
    `by` says who exchanged, `operation` what was done with the parts, `factor` what each of them
    was multiplied with. `error` is how far what left is from the sum of what entered, relative to
    the norms; None where a file is missing.
    """

    order: int
    ranks: tuple[int, ...]
    by: str
    operation: str
    factor: Exact | None
    source: int | None = None
    missing: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    error: float | None = None
    is_simulated: bool = False


@dataclass(frozen=True)
class History:
    """A buffer from the last time it was empty to the moment it was used.

    `step` is the order of the step that consumed it, None if none did. `content` is what was
    consumed. `emptied` says by whom it was emptied before. `evaluations` counts the times a closure
    filled it anew. `again` are the orders of the steps that consumed the very same afterwards,
    before anything was added and before it was emptied. `inside` is the order of the backward call
    that was still at work when the step consumed it. `shared` are the exchanges between ranks that
    it passed.
    """

    buffer: int
    step: int | None
    content: Tensor | None
    entries: tuple[Entry, ...]
    emptied: str = ""
    emptied_at: int | None = None
    evaluations: int = 0
    is_complete: bool = True
    again: tuple[int, ...] = ()
    inside: int | None = None
    shared: tuple[Shared, ...] = ()


Seen = Union[Call, Step, Edit]
Measured = Union[Call, Step, Edit, Exchange]


class Archive:
    """Events of a trace with their measurements, each read once."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.events: list[Event] = trace.events
        self._calls: dict[int, CallFacts] = {}
        self._measured: dict[int, Sequence[Measurement]] = {}
        self._written: dict[int, set[int]] = {}
        self._readings: dict[int, dict[tuple[int, str], tuple[int, int | None]]] = {}
        self._exchanged: dict[int, set[int]] = {}
        self.by_order = {event.order: event for event in self.events}
        self.places = {event.order: place for place, event in enumerate(self.events)}
        self.numbers = {call.order: n for n, call in enumerate(trace.calls, start=1)}
        self._steps = {step.step for step in trace.steps}

    def call(self, order: int) -> CallFacts:
        if order not in self._calls:
            event = self.by_order[order]
            assert isinstance(event, Call)
            self._calls[order] = CallFacts(self.trace, event)
        return self._calls[order]

    def has_gap(self, first: int, last: int) -> bool:
        """Whether a step of these was not recorded, from the first up to before the last."""
        return any(step not in self._steps for step in range(first, last))

    def has_reading(self, event: Seen, buffer: int, moment: str) -> bool:
        return (buffer, moment) in self._readings_of(event)

    def writes(self, event: Event, buffer: int) -> bool:
        """Whether this is a call that adds to the buffer; told without its measurements."""
        return isinstance(event, Call) and event.accumulates and self.reaches(event, buffer)

    def reaches(self, event: Call, buffer: int) -> bool:
        """Whether a call comes to the leaf of the buffer, if only to hand its gradient back."""
        if event.layout not in self._written:
            structure = self.trace.layout(event.layout).structure
            nodes = () if structure is None else self.trace.structure(structure).nodes
            self._written[event.layout] = set(leaves_of(nodes).values())
        return buffer in self._written[event.layout]

    def reading(self, event: Seen, buffer: int, moment: str) -> Tensor | None:
        """The content of a buffer at a moment of an event; None where there was none."""
        found = self._readings_of(event).get((buffer, moment))
        if found is None:
            return None
        form, row = found
        if isinstance(event, Call):
            return self.call(event.order).tensor(form, row)
        return Tensor(self.trace.forms[form], self._row(event, row))

    def finds_nothing(self, event: Seen, buffer: int, moment: str) -> bool:
        """Whether a buffer was None or zero at a moment of an event."""
        found = self.reading(event, buffer, moment)
        return found is None or (found.measured is not None and is_zero(found.measured))

    def exchanges(self, event: Event, buffer: int) -> bool:
        """Whether a part of the buffer's gradient entered this, an operation between ranks."""
        if not isinstance(event, Exchange):
            return False
        if event.layout not in self._exchanged:
            pieces = self.trace.layout(event.layout).pieces
            self._exchanged[event.layout] = {
                piece.buffer
                for piece in pieces
                if piece.buffer is not None and piece.content == "gradient"
            }
        return buffer in self._exchanged[event.layout]

    def pieces(self, event: Exchange, buffer: int, moment: str) -> list[tuple[Piece, Tensor]]:
        """What of the buffer's gradient entered or left, each with what was measured of it."""
        forms = self.trace.forms
        return [
            (p, Tensor(replace(forms[p.form], shape=(p.elements,)), self._row(event, p.row)))
            for p in self.trace.layout(event.layout).pieces
            if p.moment == moment and p.buffer == buffer and p.content == "gradient"
        ]

    def _row(self, event: Measured, row: int | None) -> Measurement | None:
        if row is None:
            return None
        if event.order not in self._measured:
            self._measured[event.order] = self.trace.measured(event)
        return self._measured[event.order][row]

    def _readings_of(self, event: Seen) -> dict[tuple[int, str], tuple[int, int | None]]:
        if event.layout not in self._readings:
            readings = self.trace.layout(event.layout).readings
            self._readings[event.layout] = {(r.buffer, r.moment): (r.form, r.row) for r in readings}
        return self._readings[event.layout]


def history_of(archive: Archive, buffer: int, step: Step | None) -> History:
    """The buffer up to a step, or to the end of the trace."""
    events = list(reaching(archive, buffer, step))
    before = [e for e in events if step is None or e.order <= step.order]
    start = beginning(archive, buffer, before)
    is_cut = 0 < start < len(before) and isinstance(before[start], Call)
    book = Book(archive, buffer, emptied="by hand" if is_cut else "")
    for event in events[start:]:
        book.take(event)
    history = book.close(step)
    return history if step is None else replace(history, again=used_again(archive, buffer, step))


def used_again(archive: Archive, buffer: int, step: Step) -> tuple[int, ...]:
    """The steps that took the same content after this one did.

    Not those that it made itself: an optimizer may have others do its work (ZeRO).
    """
    found: list[int] = []
    content = archive.reading(step, buffer, "consumed")
    place = archive.places[step.order] + 1
    for event in islice(archive.events, place, None):
        if not touches(archive, event, buffer):
            continue
        taken = archive.reading(event, buffer, "consumed") if isinstance(event, Step) else None
        if content is None or taken is None or ratio([content], taken) != 1:
            break
        if isinstance(event, Step) and event.step != step.step:
            found.append(event.order)
    return tuple(found)


def fills_of(archive: Archive, buffer: int) -> list[History]:
    """Every time the buffer was filled, from empty to empty, whoever used it."""
    book = Book(archive, buffer)
    for event in archive.events:
        if touches(archive, event, buffer):
            book.take(event)
    return book.fills()


def reaching(archive: Archive, buffer: int, step: Step | None) -> Iterator[Event]:
    """The events up to the step that touch the buffer; with a closure, those inside the step."""
    closure = step is not None and not _consumed_anything(archive, step)
    for event in archive.events:
        is_later = step is not None and event.order > step.order
        if is_later and not (closure and step is not None and event.step == step.step):
            break
        if touches(archive, event, buffer):
            yield event


def _consumed_anything(archive: Archive, step: Step) -> bool:
    return bool(archive.trace.layout(step.layout).readings)


def touches(archive: Archive, event: Event, buffer: int) -> bool:
    if isinstance(event, Reset):
        return buffer in event.buffers
    if isinstance(event, Call):
        return event.outcome == "done" and archive.writes(event, buffer)
    if isinstance(event, Edit):
        return archive.has_reading(event, buffer, "before")
    if isinstance(event, Exchange):
        return archive.exchanges(event, buffer)
    if isinstance(event, Use):
        return False
    return any(buffer in group.get("buffers", ()) for group in event.groups)


def beginning(archive: Archive, buffer: int, events: list[Event]) -> int:
    """Where to begin to read: at the last event that surely found or left the buffer empty."""
    for place in range(len(events) - 1, -1, -1):
        event = events[place]
        if isinstance(event, Reset):
            return place
        if not isinstance(event, Call) or event.nested_in is not None:
            continue
        if not archive.has_reading(event, buffer, "before"):
            return place - 1 if place and isinstance(events[place - 1], Reset) else place
    return 0


class Book:
    """The content of one buffer, event by event."""

    def __init__(self, archive: Archive, buffer: int, emptied: str = "") -> None:
        self._archive = archive
        self._buffer = buffer
        self._entries: list[Entry] = []
        self._content: Tensor | None = None
        self._added: tuple[Tensor, Call, int] | None = None
        """What a call that is still at work has added, and the hooks that may have changed it."""
        self._is_known = False
        self._last = 0
        self._step = 0
        self._emptied = emptied
        self._emptied_at: int | None = None
        self._closed: list[History] = []
        self._inside: tuple[float, int] = (-1.0, 0)

    def take(self, event: Event) -> None:
        if self._step and self._archive.has_gap(self._step + 1, event.step):
            # Steps between were not recorded: what happened to the buffer there is not known.
            self._entries, self._content, self._is_known = [], None, False
            self._added = None
        self._step = max(event.step, self._step)
        if isinstance(event, Reset):
            self._empty(f"by {event.by}()", event)
        elif isinstance(event, Call):
            self._contribute(event)
        elif isinstance(event, Edit):
            self._edit(event)
        elif isinstance(event, Step):
            self._consume(event)
        self._last = event.order

    def close(self, step: Step | None) -> History:
        """The history for a step; if a closure made the gradients, that of its first evaluation."""
        if step is not None:
            content = self._archive.reading(step, self._buffer, "consumed")
            is_closure = not _consumed_anything(self._archive, step)
            if is_closure:
                return self._of_closure(step)
            return self._history(step, content)
        return self._history(None, self._content)

    def fills(self) -> list[History]:
        last = [self._history(None, self._content)] if self._entries else []
        return [*self._closed, *last]

    def _of_closure(self, step: Step) -> History:
        inside = [h for h in self._closed if any((e.call or 0) > step.order for e in h.entries)]
        last = self._history(step, self._content)
        chosen = inside[0] if inside else last
        return replace(chosen, step=step.order, evaluations=len(inside) + 1)

    def _history(self, step: Step | None, content: Tensor | None) -> History:
        return History(
            self._buffer, None if step is None else step.order, content, tuple(self._entries),
            self._emptied, self._emptied_at,
            is_complete=all(e.call is not None or e.is_rest for e in self._entries),
            inside=None if step is None else self._at_work(step),
        )  # fmt: skip

    def _at_work(self, step: Step) -> int | None:
        """The last call that wrote the buffer, if it had not ended when the step began."""
        calls = [e.call for e in self._entries if e.call is not None and self._is_own(e)]
        if not calls:
            return None
        last = self._archive.by_order[calls[-1]]
        is_running = isinstance(last, Call) and step.started < last.started + last.seconds
        return last.order if is_running and last.order < step.order else None

    def _is_own(self, entry: Entry) -> bool:
        return entry.rank in (None, self._archive.trace.info.rank)

    def _empty(self, words: str, event: Event) -> None:
        if self._entries:
            self._closed.append(self._history(None, self._content))
        self._entries, self._content, self._is_known, self._added = [], None, True, None
        self._emptied = words
        self._emptied_at = event.source if isinstance(event, Reset) else None

    def _meet(self, event: Seen, found: Tensor | None) -> None:
        """Compare what an event found with what the last one left."""
        if found is None or (found.measured is not None and is_zero(found.measured)):
            if self._entries and not (self._content_is_zero() and found is not None):
                self._empty("by hand", event)
            self._content, self._is_known, self._added = None, True, None
            return
        if not self._entries:
            handed = self._handed_over(event, found)
            unwritten = self._unwritten(event, found)
            added = [] if handed else self._added_up(unwritten, found)
            self._entries = added or [handed or unwritten]
        elif self._is_known:
            self._compare(event, found)
        self._content, self._is_known, self._added = found, True, None

    def _compare(self, event: Seen, found: Tensor) -> None:
        """What is there against what should be: what was left, and added by a call at work."""
        added = self._added
        parts = [t for t in (self._content, added[0] if added else None) if t is not None]
        factor = ratio(parts, found) if parts else Fraction(1)
        if factor == 1:
            return
        if added:
            _, call, hooks = added
            self._change(self._changed_inside(call, hooks, factor))
            return
        words = "changed by hand" + ("" if factor is not None else ", not by a factor")
        self._change(Change("edit", words, factor, self._last, None, False, event.order))

    def _handed_over(self, event: Seen, found: Tensor) -> Entry | None:
        """Content that no backward call wrote: a multiple of what `autograd.grad` handed back?"""
        place = self._archive.places[event.order]
        earlier = (
            self._archive.events[n] for n in range(place - 1, max(place - MOST_LOOKED_AT, -1), -1)
        )
        for other in earlier:
            if not isinstance(other, Call) or other.entry != "grad" or other.create_graph:
                continue
            facts = self._archive.call(other.order)
            for capture in facts.layout.captures:
                if capture.node != facts.writers.get(self._buffer) or capture.form is None:
                    continue
                tensor = facts.tensor(capture.form, capture.row)
                if tensor.measured is None or (factor := ratio([tensor], found)) is None:
                    continue
                words = "put there by hand, from autograd.grad"
                change = Change("edit", words, factor, other.order, other.source, False)
                return Entry(other.order, tensor, other.source, (change,))
        return None

    def _added_up(self, unwritten: Entry, found: Tensor) -> list[Entry]:
        """Content that is a multiple of what several calls of `autograd.grad` gave, together."""
        given = [g for order in unwritten.candidates if (g := self._given(order)) is not None]
        if len(given) < 2 or len(given) < len(unwritten.candidates):
            return []
        factor = ratio([tensor for _, tensor in given], found)
        if factor is None:
            return []
        words = "put there by hand, added up from autograd.grad"
        change = Change("edit", words, factor, given[-1][0].order, None, False)
        return [Entry(call.order, tensor, call.source, (change,)) for call, tensor in given]

    def _given(self, order: int) -> tuple[Call, Tensor] | None:
        """What a call of `autograd.grad` handed back for this buffer."""
        call = self._archive.by_order[order]
        if not isinstance(call, Call) or call.entry != "grad" or call.create_graph:
            return None
        facts = self._archive.call(order)
        for capture in facts.layout.captures:
            if capture.node == facts.writers.get(self._buffer) and capture.form is not None:
                tensor = facts.tensor(capture.form, capture.row)
                return None if tensor.measured is None else (call, tensor)
        return None

    def _unwritten(self, event: Event, found: Tensor) -> Entry:
        """Content that no call gave, nor a multiple of it: put there by hand, or from before."""
        place = self._archive.places[event.order]
        calls: list[int] = []
        for n in range(place - 1, max(place - MOST_LOOKED_AT, -1), -1):
            other = self._archive.events[n]
            if isinstance(other, Step) and other.step < event.step:
                break
            if isinstance(other, Call) and self._archive.reaches(other, self._buffer):
                calls.append(other.order)
        by_hand = bool(calls) or self._is_known
        return Entry(None, found, by_hand=by_hand, candidates=tuple(reversed(calls)))

    def _content_is_zero(self) -> bool:
        measured = self._content.measured if self._content else None
        return measured is not None and is_zero(measured)

    def _change(self, change: Change) -> None:
        self._entries = [
            replace(entry, changes=(*entry.changes, change)) for entry in self._entries
        ]

    def _contribute(self, call: Call) -> None:
        facts = self._archive.call(call.order)
        node = facts.writers[self._buffer]
        is_frozen = facts.state(node).saved.get("frozen")
        received = None if is_frozen else facts.received.get(node, {}).get(0)
        is_inner = call.started < self._inside[0]
        if not is_inner:
            self._meet(call, self._archive.reading(call, self._buffer, "before"))
        if received is not None:
            self._entries.append(Entry(call.order, received, call.source))
        others = self._touching_meanwhile(call)
        if is_inner or any(isinstance(other, Call) for other in others):
            self._is_known = False  # the books of overlapping calls are checked as one
        elif others:
            hooks = facts.state(node).hooks[2]
            self._added = None if received is None else (received, call, hooks)
        else:
            self._leave(call, facts, node, received)
        self._inside = max(self._inside, (call.started + call.seconds, call.order))

    def _touching_meanwhile(self, call: Call) -> list[Event]:
        """What else touched the buffer while this call ran: nested calls, hooks that step."""
        return [
            other
            for other in self._neighbours(call)
            if call.started <= other.started and touches(self._archive, other, self._buffer)
        ]

    def _neighbours(self, call: Call) -> Iterator[Event]:
        """Events that began after this one and before it ended."""
        place = self._archive.places[call.order] + 1
        for event in islice(self._archive.events, place, None):
            if event.started >= call.started + call.seconds:
                return
            yield event

    def _leave(self, call: Call, facts: CallFacts, node: int, received: Tensor | None) -> None:
        """What the call left, against what it found and added: hooks after accumulation."""
        after = self._archive.reading(call, self._buffer, "after")
        parts = [t for t in (self._content, received) if t is not None]
        hooks = facts.state(node).hooks[2]
        if after is not None and parts:
            factor = ratio(parts, after)
            if hooks and after.measured is not None and is_zero(after.measured):
                factor = None  # of zero any factor makes zero
            if factor != 1:
                self._change(self._changed_inside(call, hooks, factor))
        self._content, self._is_known, self._added = after, True, None
        if after is None and self._entries:
            self._empty("by a hook after accumulation", call)

    def _changed_inside(self, call: Call, hooks: int, factor: Exact | None) -> Change:
        """What changed the content between the accumulation and the end of the call."""
        words = f"{hooks} hook{'s' if hooks > 1 else ''} after accumulation"
        words = words if hooks else "changed during the call"
        return Change("hook", words, factor, call.order, call.source, bool(hooks))

    def _edit(self, edit: Edit) -> None:
        self._meet(edit, self._archive.reading(edit, self._buffer, "before"))
        after = self._archive.reading(edit, self._buffer, "after")
        factor, is_measured = self._announced(edit, after)
        words = WORDS.get(edit.kind, edit.kind)
        if after is not None and factor != 1:
            self._change(
                Change(edit.kind, words, factor, edit.order, edit.source, True, None, is_measured)
            )
        self._content = after

    def _announced(self, edit: Edit, after: Tensor | None) -> tuple[Exact | None, bool]:
        """The factor of an edit: as it says itself, if the readings agree."""
        before = self._content
        measured = None if before is None or after is None else self._factor_of(before, after)
        said: Exact | None = None
        if edit.kind == "unscale" and edit.details.get("scale"):
            said = 1 / Fraction(tidy(edit.details["scale"], 1e-6))
        elif edit.kind == "clip_grad_norm" and "coefficient" in edit.details:
            said = tidy(float(edit.details["coefficient"]), DOUBLE)
        if said is not None and before is not None and _is_nonfinite(before):
            return said, False
        if said is None or measured is None:
            return measured, True
        near = abs(float(said) - float(measured)) <= 1e-4 * abs(float(said))
        return (said, False) if near else (measured, True)

    def _factor_of(self, before: Tensor, after: Tensor) -> Exact | None:
        return ratio([before], after)

    def _consume(self, step: Step) -> None:
        found = self._archive.reading(step, self._buffer, "consumed")
        if found is None and not _consumed_anything(self._archive, step):
            return  # a closure: nothing was there to be read
        self._meet(step, found)
        self._entries = [
            replace(entry, consumed=(*entry.consumed, step.order)) for entry in self._entries
        ]


def ratio(parts: list[Tensor], whole: Tensor) -> Exact | None:
    measured = [part.measured for part in parts if part.measured is not None]
    if len(measured) < len(parts) or whole.measured is None:
        return Fraction(1)  # not measured: nothing is known to have changed
    if whole.measured.nonfinite and any(part.nonfinite for part in measured):
        return Fraction(1)  # NaN and infinity stay what they are; a factor would not be seen
    tolerance = max(rounding(tensor.form.dtype) for tensor in (*parts, whole))
    return proportion(measured, whole.measured, tolerance)


def _is_nonfinite(tensor: Tensor) -> bool:
    return tensor.measured is not None and tensor.measured.nonfinite > 0
