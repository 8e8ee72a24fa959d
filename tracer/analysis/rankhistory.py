"""What happened to a buffer on all ranks together: the history of each, joined where they exchange.

Every rank's events are read in their order. Who comes to an operation that a part of the buffer
entered waits until the others are there; then each has what all of them put in, multiplied by what
the operation does. That what left is what entered, added up, is checked with fingerprints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tracer.analysis.callfacts import Tensor
from tracer.analysis.exact import is_same, is_zero, product, proportion, rounding, said, tidy
from tracer.analysis.history import (
    Archive,
    Book,
    Change,
    Entry,
    History,
    Seen,
    Shared,
    beginning,
    ratio,
    reaching,
    used_again,
)
from tracer.analysis.lines import LinesOfRanks
from tracer.analysis.meetings import Meeting, Meetings
from tracer.events import Call, Event, Exchange, Measurement, Step, Use, Wrapper
from tracer.semantics.effects import Exact

__all__ = ["EXCHANGED", "Joint", "Replay"]

EXCHANGED = ("rank-before", "rank-operation", "rank-after")
"""The kinds of change that an exchange brings about: before it, itself, and by a hook after it."""

ADDING = ("all_reduce", "reduce_scatter", "reduce", "all_gather", "all_to_all")
REDUCING = {"sum", "avg", "premul_sum"}


@dataclass(frozen=True)
class Joint:
    """All ranks that were recorded, their operations matched, their lines translated."""

    archives: Mapping[int, Archive]
    meetings: Meetings
    lines: LinesOfRanks


@dataclass
class _Offer:
    """What one rank puts into an exchange: the entries behind it, and what was measured of it."""

    entries: list[Entry]
    entered: list[Tensor]


@dataclass
class _Flight:
    """What came back from an exchange and may not have been put into the buffer yet."""

    exchange: Exchange
    parts: list[Tensor]
    entries: list[Entry]
    shared: Shared


class RankBook(Book):
    """The content of a buffer on one rank, with what came from the others."""

    def __init__(self, archive: Archive, buffer: int, rank: int, emptied: str = "") -> None:
        super().__init__(archive, buffer, emptied)
        self.rank = rank
        self._flight: _Flight | None = None
        self._shared: list[Shared] = []
        self._ending: Call | None = None

    def end(self, call: Call) -> None:
        """The call is over, inside which something was exchanged."""
        after = self._archive.reading(call, self._buffer, "after")
        if after is None:
            return
        self._ending = call
        self._meet(call, after)
        self._ending = None

    def offer(self, exchange: Exchange) -> _Offer:
        """What this rank puts in, after what its maker did right before."""
        entered = [t for _, t in self._archive.pieces(exchange, self._buffer, "entered")]
        behind, factor = self._behind(entered)
        if not self._entries and not self._flight and not _are_zero(entered):
            behind = [Entry(None, entered[0])] if entered else []
        if factor != 1:
            change = self._before(exchange, factor)
            behind = [replace(e, changes=(*e.changes, change)) for e in behind]
        return _Offer(behind, entered)

    def _behind(self, entered: list[Tensor]) -> tuple[list[Entry], Exact | None]:
        """The entries that what entered is made of, and by which factor it differs from them."""
        added = self._added[0] if self._added else None
        content = [t for t in (self._content, added) if t is not None]
        if self._flight is not None:
            factor = _ratio(self._flight.parts, entered)
            if factor == 1 or not content or _ratio(content, entered) is None:
                return self._flight.entries, factor
        if not content or not entered:
            return list(self._entries), Fraction(1)
        return list(self._entries), _ratio(content, entered)

    def _before(self, exchange: Exchange, factor: Exact | None) -> Change:
        wrapper, divisor = self.wrapper(exchange), self.divisor(exchange)
        if divisor and factor is not None and is_same(factor, 1 / divisor):
            words = f"{_kind(wrapper)} divides by {said(divisor)} before it adds"
            return _change("rank-before", words, factor, exchange, False)
        hook = _hook(wrapper)
        who = f"{hook}, before it adds" if hook else "before it was exchanged"
        words = who if factor is not None else f"{who}: not by a factor"
        return _change("rank-before", words, factor, exchange)

    def accept(self, exchange: Exchange, entries: list[Entry], shared: Shared) -> None:
        """What came back: it is the content as soon as the buffer is seen to hold it."""
        left = [t for _, t in self._archive.pieces(exchange, self._buffer, "left")]
        self._flight = _Flight(exchange, left, entries, shared)
        self._last = exchange.order

    def wrapper(self, exchange: Exchange) -> Wrapper | None:
        number = exchange.wrapper
        return None if number is None else self._archive.trace.wrappers[number]

    def divisor(self, exchange: Exchange) -> Exact | None:
        """By what the wrapper says that it divides."""
        use = self.use(exchange)
        return None if use is None or not use.divisor else tidy(use.divisor)

    def use(self, exchange: Exchange) -> Use | None:
        """The forward that the exchange belongs to."""
        uses = (u for u in reversed(self._archive.trace.uses) if u.order < exchange.order)
        return next((u for u in uses if u.wrapper == exchange.wrapper), None)

    def _meet(self, event: Seen, found: Tensor | None) -> None:
        if self._flight is not None:
            self._land(self._flight, event, found)
        super()._meet(event, found)

    def _land(self, flight: _Flight, event: Event, found: Tensor | None) -> None:
        """Whether what came back is what the buffer holds: it alone, or beside what was there."""
        self._flight = None
        added = self._added[0] if self._added else None
        old = [t for t in (self._content, added) if t is not None]
        if found is None or not flight.parts:
            return
        factor = _ratio(flight.parts, [found])
        if factor == 1 or not old:
            self._take(flight, factor, event, found)
        elif _ratio([*old, *flight.parts], [found]) == 1:
            kept = self._entries
            self._take(flight, Fraction(1), event, found)
            self._entries = [*kept, *self._entries]
        elif _ratio(old, [found]) != 1:
            self._take(flight, factor, event, found)

    def _take(self, flight: _Flight, factor: Exact | None, event: Event, found: Tensor) -> None:
        self._entries = list(flight.entries)
        self._content, self._added, self._is_known = found, None, True
        self._shared.append(flight.shared)
        if factor != 1:
            self._change(self._after(flight, factor, event))

    def _after(self, flight: _Flight, factor: Exact | None, event: Event) -> Change:
        exchange = flight.exchange
        is_inside = self._ending is not None and exchange.call == self._ending.order
        if is_inside:
            who = _hook(self.wrapper(exchange)) or _kind(self.wrapper(exchange)) or "a hook"
            words = f"{who}, after it added"
            return _change("rank-after", words, factor, exchange)
        words = "changed by hand" + ("" if factor is not None else ", not by a factor")
        return Change("edit", words, factor, exchange.order, None, False, event.order)

    def _empty(self, words: str, event: Event) -> None:
        super()._empty(words, event)
        self._shared, self._flight = [], None

    def _history(self, step: Step | None, content: Tensor | None) -> History:
        if step is None and self._flight is not None and self._flight.parts:
            self._land(self._flight, self._flight.exchange, self._flight.parts[0])
            content = self._content
        return replace(super()._history(step, content), shared=tuple(self._shared))

    def _touching_meanwhile(self, call: Call) -> list[Event]:
        found = super()._touching_meanwhile(call)
        return found + [e for e in self.exchanges_in(call) if e not in found]

    def exchanges_in(self, call: Call) -> list[Exchange]:
        """What of this buffer was exchanged inside a call."""
        return [
            exchange
            for exchange in self._archive.trace.exchanges
            if exchange.call == call.order and self._archive.exchanges(exchange, self._buffer)
        ]

    def _changed_inside(self, call: Call, hooks: int, factor: Exact | None) -> Change:
        change = super()._changed_inside(call, hooks, factor)
        hook = self._hook_at_work(call)
        if factor is not None or not hook:
            return change
        words = f"{hook} exchanges something else than the gradient: not by a factor"
        return replace(change, kind="rank-after", words=words)

    def _hook_at_work(self, call: Call) -> str:
        """The hook of a wrapper that exchanged in this call, and holds the buffer."""
        for exchange in self._archive.trace.exchanges:
            wrapper = self.wrapper(exchange) if exchange.call == call.order else None
            if wrapper and any(self._buffer in bucket for bucket in wrapper.buckets):
                return _hook(wrapper)
        return ""


class _Line:
    """The events of one rank, in order, with the ends of calls inside which it exchanged."""

    def __init__(self, book: RankBook, events: Sequence[Event]) -> None:
        self.book = book
        self._items = list(self._with_ends(events))
        self._place = 0

    def _with_ends(self, events: Sequence[Event]) -> Iterator[tuple[Event, bool]]:
        ends: dict[int, Call] = {}
        for event in events:
            if isinstance(event, Call):
                inside = self.book.exchanges_in(event)
                if inside:
                    ends[max(exchange.order for exchange in inside)] = event
        for event in events:
            yield event, False
            if event.order in ends:
                yield ends[event.order], True

    @property
    def waiting(self) -> Exchange | None:
        """The exchange that comes next, None at the end."""
        if self._place >= len(self._items):
            return None
        event, is_end = self._items[self._place]
        return event if isinstance(event, Exchange) and not is_end else None

    def advance(self) -> None:
        """Take all events up to the next exchange."""
        while self._place < len(self._items) and self.waiting is None:
            event, is_end = self._items[self._place]
            if is_end and isinstance(event, Call):
                self.book.end(event)
            else:
                self.book.take(event)
            self._place += 1

    def pass_by(self) -> None:
        self._place += 1


class Replay:
    """One buffer on all ranks at once. `buffers` are its numbers, `steps` where to stop."""

    def __init__(
        self, joint: Joint, buffers: Mapping[int, int], steps: Mapping[int, Step | None]
    ) -> None:
        self._joint = joint
        self._steps = steps
        self._lines = {
            rank: _line(joint.archives[rank], buffer, rank, steps.get(rank))
            for rank, buffer in buffers.items()
        }
        self._run()

    def book(self, rank: int) -> RankBook:
        return self._lines[rank].book

    def history(self, rank: int) -> History:
        """The history of the buffer on one rank, up to its step."""
        book, step = self.book(rank), self._steps.get(rank)
        history = book.close(step)
        if step is None:
            return history
        again = used_again(self._joint.archives[rank], history.buffer, step)
        return replace(history, again=again)

    def _run(self) -> None:
        while True:
            for line in self._lines.values():
                line.advance()
            waiting = {rank: e for rank, line in self._lines.items() if (e := line.waiting)}
            if not waiting:
                return
            meeting = self._next(waiting)
            present = {r: e for r, e in waiting.items() if self._joint.meetings.of(r, e) is meeting}
            self._hold(meeting, present)
            for rank in present:
                self._lines[rank].pass_by()

    def _next(self, waiting: Mapping[int, Exchange]) -> Meeting:
        """An operation at which all are that take part; or else the first that one waits for."""
        found = [self._joint.meetings.of(rank, exchange) for rank, exchange in waiting.items()]
        for meeting in found:
            here = [rank for rank in meeting.exchanges if rank in self._lines]
            if all(meeting.exchanges[rank] is waiting.get(rank) for rank in here):
                return meeting
        return found[0]

    def _hold(self, meeting: Meeting, present: Mapping[int, Exchange]) -> None:
        offers = {rank: self._lines[rank].book.offer(e) for rank, e in present.items()}
        for rank, exchange in present.items():
            book = self._lines[rank].book
            receiver = _Receiver(self._joint, book, meeting, exchange, offers)
            book.accept(exchange, *receiver.received())


def _line(archive: Archive, buffer: int, rank: int, step: Step | None) -> _Line:
    events = list(reaching(archive, buffer, step))
    before = [e for e in events if step is None or e.order <= step.order]
    start = beginning(archive, buffer, before)
    is_cut = 0 < start < len(before) and isinstance(before[start], Call)
    book = RankBook(archive, buffer, rank, emptied="by hand" if is_cut else "")
    return _Line(book, events[start:])


class _Receiver:
    """One rank at an exchange: what it gets, and whether that is what all put in."""

    def __init__(
        self, joint: Joint, book: RankBook, meeting: Meeting, exchange: Exchange,
        offers: Mapping[int, _Offer],
    ) -> None:  # fmt: skip
        self._joint = joint
        self._book = book
        self._meeting = meeting
        self._exchange = exchange
        self._offers = offers
        self._archive = joint.archives[book.rank]
        self._is_simulated = self._archive.trace.info.simulated
        self._buffer = book._buffer

    def received(self) -> tuple[list[Entry], Shared]:
        world = len(self._meeting.ranks)
        factor = self._factor()
        givers = self._givers()
        entries = _merged(
            [self._moved(entry, rank) for rank in givers for entry in self._offers[rank].entries]
        )
        error = self._error(givers, factor)
        missing = () if self._is_simulated else tuple(
            rank for rank in self._meeting.ranks if rank not in self._offers
        )  # fmt: skip
        if len(missing) == 1 and error is None and factor:
            entries += self._rest(missing[0], factor)
        words = _operation(self._meeting, world)
        change = _change("rank-operation", words, factor, self._exchange, False)
        if error is not None and error > self._tolerance():
            change = replace(change, factor=None, words=f"{words}: not what entered, added up")
        entries = [replace(e, changes=_with(e.changes, change, world)) for e in entries]
        if self._is_simulated:
            entries = [_of_equals(entry, self._meeting.ranks, change) for entry in entries]
        shared = Shared(
            self._exchange.order, self._meeting.ranks, self._by(), words, factor, self._source(),
            missing,
            tuple(r for r in givers if _are_zero(self._offers[r].entered)), error,
            self._is_simulated,
        )  # fmt: skip
        return entries, shared

    def _givers(self) -> list[int]:
        if self._meeting.kind in ("broadcast", "scatter"):
            return [rank for rank in self._offers if rank == self._meeting.root]
        if self._meeting.kind == "reduce" and self._book.rank != self._meeting.root:
            return [self._book.rank]
        return list(self._offers)

    def _factor(self) -> Exact | None:
        """What the operation multiplies each part with; None where it is no sum."""
        meeting = self._meeting
        if meeting.kind not in ("all_reduce", "reduce_scatter", "reduce"):
            return Fraction(1)
        if meeting.op == "avg":
            return Fraction(1, len(meeting.ranks))
        if meeting.op == "premul_sum":
            return None if meeting.factor is None else tidy(meeting.factor)
        return Fraction(1) if meeting.op in REDUCING else None

    def _moved(self, entry: Entry, rank: int) -> Entry:
        """An entry of another rank, with lines as this one numbers them."""
        if rank == self._book.rank:
            return replace(entry, rank=rank if entry.rank is None else entry.rank)
        move = self._joint.lines.moved
        here = self._book.rank
        changes = tuple(
            replace(change, source=move(change.source, rank, here)) for change in entry.changes
        )
        return replace(
            entry, source=move(entry.source, rank, here), changes=changes, consumed=(),
            rank=rank if entry.rank is None else entry.rank,
        )  # fmt: skip

    def _left(self) -> list[Tensor]:
        pieces = self._archive.pieces(self._exchange, self._buffer, "left")
        return [tensor for _, tensor in pieces]

    def _tolerance(self) -> float:
        return max((rounding(t.form.dtype) for t in self._left()), default=0.0)

    def _error(self, givers: Sequence[int], factor: Exact | None) -> float | None:
        """How far what left is from the sum of what entered; None if that cannot be told."""
        left = self._left()
        is_whole = len(self._offers) == len(self._meeting.ranks)
        if not is_whole or factor is None or not left or self._is_simulated:
            return None
        entered = [t for rank in givers for t in self._offers[rank].entered]
        return _off(entered, left, float(factor))

    def _rest(self, missing: int, factor: Exact) -> list[Entry]:
        """What the only missing rank must have put in: what left, less what the others put in."""
        left = self._left()
        known = [t for offer in self._offers.values() for t in offer.entered]
        if len(left) != 1 or left[0].measured is None or any(t.measured is None for t in known):
            return []
        measured = _less(left[0].measured, [t.measured for t in known if t.measured], factor)
        return [Entry(None, Tensor(left[0].form, measured), rank=missing, is_rest=True)]

    def _by(self) -> str:
        wrapper = self._book.wrapper(self._exchange)
        if wrapper is None:
            return f"{self._meeting.kind} by hand"
        hook = _hook(wrapper)
        return f"{_kind(wrapper)}, hook {hook}" if hook else _kind(wrapper)

    def _source(self) -> int | None:
        use = self._book.use(self._exchange)
        return self._exchange.source if use is None else use.source


def _operation(meeting: Meeting, world: int) -> str:
    words = {
        "avg": f"average over {world:,} ranks",
        "premul_sum": f"multiplied, then added over {world:,} ranks",
        "sum": f"sum over {world:,} ranks",
    }
    if meeting.kind in ("broadcast", "scatter"):
        return f"broadcast from rank {meeting.root}"
    if meeting.kind in ("all_gather", "all_to_all"):
        return f"gathered from {world:,} ranks"
    return words.get(meeting.op, f"{meeting.op} over {world:,} ranks")


def _kind(wrapper: Wrapper | None) -> str:
    return "" if wrapper is None else wrapper.kind


def _hook(wrapper: Wrapper | None) -> str:
    return "" if wrapper is None else str(wrapper.details.get("hook") or "").rpartition(".")[2]


def _change(
    kind: str, words: str, factor: Exact | None, exchange: Exchange, is_measured: bool = True
) -> Change:
    return Change(
        kind, words, factor, exchange.order, exchange.source, True, None, is_measured
    )  # fmt: skip


def _with(changes: tuple[Change, ...], operation: Change, world: int) -> tuple[Change, ...]:
    """The operation behind what came before; a wrapper that divides and then adds averages."""
    last = changes[-1] if changes else None
    is_divided = last is not None and last.kind == "rank-before" and not last.is_measured
    if last is None or not is_divided or operation.factor != 1 or last.factor != Fraction(1, world):
        return (*changes, operation)
    words = f"{last.words.partition(' ')[0]} average over {world:,} ranks"
    return (*changes[:-1], replace(operation, words=words, factor=last.factor))


def _merged(entries: Sequence[Entry]) -> list[Entry]:
    """The same contribution that came from several ranks (it had been exchanged before) as one."""
    groups: dict[tuple[int | None, int | None], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.rank, entry.call), []).append(entry)
    return [_one_of(group) for group in groups.values()]


def _one_of(copies: Sequence[Entry]) -> Entry:
    first = copies[0]
    factors = [product(change.factor for change in entry.changes) for entry in copies]
    if len(copies) == 1:
        return first
    known = [f for f in factors if f is not None]
    words = f"in it on {len(copies)} ranks"
    value: Exact | None = None
    if len(known) == len(copies) and known[0]:
        whole = known[0]
        for other in known[1:]:
            whole = whole + other
        value = whole / known[0]
    last = first.changes[-1]
    again = Change("rank-operation", words, value, last.order, last.source)
    return replace(first, changes=(*first.changes, again))


def _of_equals(entry: Entry, ranks: tuple[int, ...], change: Change) -> Entry:
    """What all equal members of a group put in; those that met before have the same already."""
    if ranks in entry.met:
        again = replace(change, words=f"in it on {len(ranks)} ranks", factor=Fraction(len(ranks)))
        return replace(entry, changes=(*entry.changes, again))
    return replace(entry, copies=entry.copies * len(ranks), met=(*entry.met, ranks))


def _are_zero(tensors: Sequence[Tensor]) -> bool:
    return all(t.measured is not None and is_zero(t.measured) for t in tensors)


def _ratio(parts: Sequence[Tensor], whole: Sequence[Tensor]) -> Exact | None:
    """c where the whole, which may lie in several pieces, is c x the sum of the parts."""
    if len(whole) == 1 and all(part.elements == whole[0].elements for part in parts):
        return ratio(list(parts), whole[0])
    one, other = _together(parts), _together(whole)
    if one is None or other is None:
        return Fraction(1)  # not measured: nothing is known to have changed
    tolerance = max(rounding(t.form.dtype) for t in (*parts, *whole))
    if all(part.elements == other.elements for part in parts):
        added = [replace(t.measured, values=None) for t in parts if t.measured is not None]
        return proportion(added, other, tolerance)
    return proportion([one], other, tolerance)


def _together(tensors: Sequence[Tensor]) -> Measurement | None:
    """Pieces of one tensor as one; their numbers add up, as they have no element in common."""
    known = [t.measured for t in tensors if t.measured is not None]
    if not known or len(known) < len(tensors):
        return None
    if len(known) == 1:
        return replace(known[0], values=None)
    return Measurement(
        elements=sum(m.elements for m in known),
        sum=sum(m.sum for m in known),
        norm=math.hypot(*(m.norm for m in known)),
        largest=max(m.largest for m in known),
        nonfinite=sum(m.nonfinite for m in known),
        fingerprint=tuple(map(sum, zip(*(m.fingerprint for m in known), strict=True))),
    )


def _off(entered: Sequence[Tensor], left: Sequence[Tensor], factor: float) -> float | None:
    """The largest difference of a fingerprint, relative to the norms of all that took part."""
    parts = [t.measured for t in entered if t.measured is not None]
    whole = [t.measured for t in left if t.measured is not None]
    if len(parts) < len(entered) or len(whole) < len(left):
        return None
    if any(m.nonfinite for m in (*parts, *whole)):
        return None
    sums = [math.fsum(column) for column in zip(*(m.fingerprint for m in parts), strict=True)]
    totals = [math.fsum(column) for column in zip(*(m.fingerprint for m in whole), strict=True)]
    scale = math.fsum(abs(factor) * m.norm for m in parts) + math.fsum(m.norm for m in whole)
    if not scale or not math.isfinite(scale):
        return 0.0 if scale == 0 else None
    return max(abs(factor * s - t) for s, t in zip(sums, totals, strict=True)) / scale


def _less(whole: Measurement, parts: Sequence[Measurement], factor: Exact) -> Measurement:
    """What is left over; its norm is estimated from the fingerprint, whose signs are random."""
    c = float(factor)
    rest = [
        t / c - math.fsum(column)
        for t, column in zip(
            whole.fingerprint, zip(*(m.fingerprint for m in parts), strict=True), strict=True
        )
    ]
    norm = math.sqrt(math.fsum(x * x for x in rest) / len(rest))
    values = None
    if whole.values is not None:
        columns = zip(*(m.values or () for m in parts), strict=True)
        values = tuple(v / c - sum(column) for v, column in zip(whole.values, columns, strict=True))
    return Measurement(
        whole.elements, whole.sum / c - sum(m.sum for m in parts), norm, norm, 0, tuple(rest),
        values,
    )  # fmt: skip
