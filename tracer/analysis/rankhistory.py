"""What happened to a buffer on all ranks together: the history of each, joined where they exchange.

Every rank's events are read in their order. Who comes to an operation that a part of the buffer
entered waits until the others are there; then each has what all of them put in, multiplied by what
the operation does. That what left is what entered, added up, is checked with fingerprints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from tracer.analysis.holdings import Holdings
from tracer.analysis.lines import LinesOfRanks
from tracer.analysis.meetings import Meeting, Meetings
from tracer.events import (
    Call,
    Edit,
    Event,
    Exchange,
    Measurement,
    Piece,
    Reset,
    Step,
    Use,
    Wrapper,
)
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
    holdings: Mapping[int, Holdings]
    meetings: Meetings
    lines: LinesOfRanks


@dataclass
class _Offer:
    """What one rank puts into an exchange: the entries behind it, and what was measured of it."""

    entries: list[Entry]
    entered: list[Tensor]
    pieces: list[tuple[Piece, Tensor]] = field(default_factory=list)

    def bound_for(self, rank: int) -> list[Tensor]:
        """What of it goes to a rank: all, or the places in it that are this rank's."""
        return [t for piece, t in self.pieces if piece.peer in (None, rank)]


@dataclass
class _Flight:
    """What came back from an exchange and may not have been put into the buffer yet."""

    exchange: Exchange
    parts: list[Tensor]
    entries: list[Entry]
    shared: Shared
    is_in_place: bool = False
    """Whether it was the content itself that was exchanged, not a copy of it."""
    earlier: tuple[Shared, ...] = ()
    """The exchanges that what entered had come from: a reduce, of which a broadcast follows."""

    @property
    def all_shared(self) -> tuple[Shared, ...]:
        return (*self.earlier, self.shared)


class RankBook(Book):
    """The content of a buffer on one rank, with what came from the others."""

    def __init__(self, archive: Archive, buffer: int, rank: int, emptied: str = "") -> None:
        super().__init__(archive, buffer, emptied)
        self.rank = rank
        self._flight: _Flight | None = None
        self._shared: list[Shared] = []
        self._passed: tuple[Shared, ...] = ()
        self._ending: Call | None = None

    @property
    def entries(self) -> list[Entry]:
        return self._entries

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
        pieces = self._archive.pieces(exchange, self._buffer, "entered")
        entered = [tensor for _, tensor in pieces]
        behind, factor = self._behind(entered)
        if not self._entries and not self._flight and not _are_zero(entered):
            behind = [Entry(None, entered[0])] if entered else []
        is_shadow = exchange.call is None and exchange.wrapper is not None and _are_zero(entered)
        if is_shadow:  # of a rank that has joined: what lies in its buffer was used before
            return _Offer([], entered, pieces)
        factor = self._of_nothing(factor, entered, exchange)
        if factor != 1:
            change = self._before(exchange, factor)
            behind = [replace(e, changes=(*e.changes, change)) for e in behind]
        return _Offer(behind, entered, pieces)

    def _of_nothing(
        self, factor: Exact | None, entered: list[Tensor], exchange: Exchange
    ) -> Exact | None:
        """Of zeros no factor can be measured: what the wrapper says."""
        divisor = self.divisor(exchange)
        return 1 / divisor if factor == 1 and divisor and _are_zero(entered) else factor

    def _behind(self, entered: list[Tensor]) -> tuple[list[Entry], Exact | None]:
        """The entries that what entered is made of, and by which factor it differs from them."""
        self._passed = ()
        added = self._added[0] if self._added else None
        content = [t for t in (self._content, added) if t is not None]
        if self._flight is not None:
            factor = _ratio(self._flight.parts, entered)
            is_passed_on = factor == 1 or not content or _ratio(content, entered) is None
            if is_passed_on or not self._flight.parts:
                self._passed = self._flight.all_shared
            if is_passed_on:
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
        pieces = self._archive.pieces(exchange, self._buffer, "left")
        is_in_place = any(piece.found == "memory" for piece, _ in pieces)
        left = [tensor for _, tensor in pieces]
        self._flight = _Flight(exchange, left, entries, shared, is_in_place, self._passed)
        self._passed = ()
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
        if factor == 1 or not old or flight.is_in_place:
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
        self._shared += flight.all_shared
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
        """The hook of the wrapper that holds the buffer, if this call exchanged something."""
        trace = self._archive.trace
        if not any(exchange.call == call.order for exchange in trace.exchanges):
            return ""
        holders = [w for w in trace.wrappers.values() if any(self._buffer in b for b in w.buckets)]
        return _hook(holders[-1]) if holders else ""

    @property
    def parts(self) -> list[Tensor]:
        """What the buffer should hold: what was left in it, and what a call at work added."""
        added = self._added[0] if self._added else None
        return [t for t in (self._content, added) if t is not None]

    def found_by(self, event: Event) -> Tensor | None:
        """What an event finds in the buffer."""
        if isinstance(event, Step):
            return self._archive.reading(event, self._buffer, "consumed")
        if isinstance(event, Edit) or (isinstance(event, Call) and event.nested_in is None):
            return self._archive.reading(event, self._buffer, "before")
        return None

    def is_puzzled_by(self, event: Event) -> bool:
        """Whether the event finds what is no multiple of what should be there."""
        found = self.found_by(event)
        if found is None or _are_zero([found]) or not (self._is_known or self._added):
            return False
        if self._flight is not None and _ratio(self._flight.parts, [found]) is not None:
            return False
        return _ratio(self.parts, [found]) is None if self.parts else not self._entries

    def replace_by(self, entries: list[Entry], found: Tensor, shared: Shared) -> None:
        """The buffer holds what was exchanged in a way that could not be seen."""
        self._entries, self._content, self._added = entries, found, None
        self._flight, self._is_known = None, True
        self._shared.append(shared)


class ShardBook(RankBook):
    """The part of a parameter that one rank keeps; autograd writes the whole, in another leaf.

    What autograd added waits until it is exchanged. What comes back is added to the part.
    """

    def __init__(
        self, archive: Archive, buffer: int, leaf: int, rank: int, is_flat: bool = False
    ) -> None:
        super().__init__(archive, buffer, rank)
        self._leaf = leaf
        self._is_flat = is_flat
        self.shards: tuple[int, ...] = ()
        self.is_read = False
        self._waiting: list[Entry] = []
        self._settled: list[Tensor] = []
        self._latest: _Flight | None = None

    def _contribute(self, call: Call) -> None:
        facts = self._archive.call(call.order)
        received = facts.received.get(facts.writers[self._leaf], {}).get(0)
        if received is not None:
            self._waiting.append(Entry(call.order, received, call.source))

    @property
    def content(self) -> Tensor | None:
        return self._content

    def end(self, call: Call) -> None:
        """The part is read when it is consumed; the leaf's own readings are of many tensors."""

    def offer(self, exchange: Exchange) -> _Offer:
        pieces = self._archive.pieces(exchange, self._buffer, "entered")
        entered = [tensor for _, tensor in pieces]
        if self._flight is not None:
            factor = _ratio(self._flight.parts, entered)
            if factor is not None or not self._waiting:
                flight, self._flight = self._flight, None
                self._shared.append(flight.shared)
                return self._changed(exchange, flight.entries, factor, entered, pieces)
        factor = self._predivision(self._waiting, entered, exchange)
        factor = self._of_nothing(factor, entered, exchange)
        waiting, self._waiting = list(self._waiting), []
        if self._is_flat:
            waiting = [_narrowed(e, entered, factor) for e in waiting]
        return self._changed(exchange, waiting, factor, entered, pieces)

    def _changed(
        self,
        exchange: Exchange,
        entries: list[Entry],
        factor: Exact | None,
        entered: list[Tensor],
        pieces: list[tuple[Piece, Tensor]],
    ) -> _Offer:
        if factor != 1:
            change = self._before(exchange, factor)
            entries = [replace(e, changes=(*e.changes, change)) for e in entries]
        return _Offer(entries, entered, pieces)

    def _predivision(
        self, waiting: list[Entry], entered: list[Tensor], exchange: Exchange
    ) -> Exact | None:
        """What was done to the gradient between the leaf and the exchange."""
        parts = [entry.tensor for entry in waiting if entry.tensor is not None]
        if not parts or not entered:
            return Fraction(1)
        whole = _together(entered)
        if whole is None or all(t.elements == whole.elements for t in parts):
            return _ratio(parts, entered)
        if not self._is_flat:
            # Of a DTensor the form is that of the whole, and this rank had a part of it.
            return _ratio([_of_size(t, whole.elements) for t in parts], entered)
        # One of many parameters in a flat leaf, which says the same of all of them.
        pieces = self._archive.trace.layout(exchange.layout).pieces
        beside = {p.buffer for p in pieces if p.moment == "entered" and p.content == "gradient"}
        every = [
            t for b in beside if b is not None
            for _, t in self._archive.pieces(exchange, b, "entered")
        ]  # fmt: skip
        return _by_size(parts, every)

    def divisor(self, exchange: Exchange) -> Exact | None:
        wrapper = self.wrapper(exchange)
        by = wrapper.details.get("predivide") if wrapper else None
        return tidy(float(by)) if isinstance(by, int | float) and by else super().divisor(exchange)

    def accept(self, exchange: Exchange, entries: list[Entry], shared: Shared) -> None:
        if self._flight is not None:
            self._settle(self._flight)
        if exchange.kind == "reduce_scatter":
            self.shards = shared.ranks
        super().accept(exchange, entries, shared)

    def _settle(self, flight: _Flight) -> None:
        """What came back is in the part from now on, beside what was there."""
        self._latest = flight
        self._entries = [*self._entries, *flight.entries]
        self._settled += flight.parts
        self._shared.append(flight.shared)
        self._flight = None

    def _meet(self, event: Seen, found: Tensor | None) -> None:
        if self._flight is not None:
            self._settle(self._flight)
        elif self._waiting and not self._settled:
            self._unexchanged()
        if found is not None and self._entries and self._settled:
            # First by size: of a few elements in another order the signs of fingerprints deceive.
            factor = _by_size(self._settled, [found])
            if factor == 1:
                found = _as_projected(self._settled, found, Fraction(1))
            else:
                factor = _ratio(self._settled, [found])
            latest = self._latest
            if factor != 1 and latest is not None and _ratio(latest.parts, [found]) == 1:
                # It was emptied by hand in between.
                self._entries, self._shared = list(latest.entries), [latest.shared]
                self._settled, factor = list(latest.parts), Fraction(1)
            if factor is None and (factor := _by_size(self._settled, [found])):
                found = _as_projected(self._settled, found, factor)
            if factor == 1 and _are_zero([found]) and self._latest is not None:
                factor = self._postdivision()
            for change in self._after_sum(factor, event):
                self._change(change)
        elif found is None and self._latest is not None and self._entries:
            # This rank holds no part of it, and cannot see.
            for change in self._after_sum(self._postdivision(), event):
                self._change(change)
        self._settled = [found] if found is not None else self._settled
        self._content = found
        self.is_read = True

    def _edit(self, edit: Edit) -> None:
        super()._edit(edit)
        if self._content is not None:
            self._settled = [self._content]

    def _factor_of(self, before: Tensor, after: Tensor) -> Exact | None:
        """By size where the elements lie in another order, as they do in what was settled."""
        factor = super()._factor_of(before, after)
        return _by_size([before], [after]) if factor is None else factor

    def _postdivision(self) -> Exact:
        """What the wrapper says that it does after the sum."""
        wrapper = self.wrapper(self._latest.exchange) if self._latest else None
        by = wrapper.details.get("postdivide") if wrapper else None
        return 1 / tidy(float(by)) if isinstance(by, int | float) and by else Fraction(1)

    def _after_sum(self, factor: Exact | None, event: Seen) -> Iterator[Change]:
        """The division that the wrapper says it makes, and what somebody else did beside it."""
        if factor == 1:
            return
        latest, after = self._latest, self._postdivision()
        if latest is not None and after != 1:
            kind = _kind(self.wrapper(latest.exchange))
            words = f"{kind} divides by {said(1 / after)} after it added"
            yield _change("rank-after", words, after, latest.exchange, False)
            if factor is not None:
                factor = Fraction(1) if is_same(factor, after) else factor / after
        if factor != 1:
            words = "changed by hand" + ("" if factor is not None else ", not by a factor")
            yield Change("edit", words, factor, self._last, None, False, event.order)

    def _unexchanged(self) -> None:
        """A group of one rank exchanges nothing."""
        self._entries, self._waiting = [*self._entries, *self._waiting], []
        self._settled = [e.tensor for e in self._entries if e.tensor is not None]

    def _empty(self, words: str, event: Event) -> None:
        super()._empty(words, event)
        self._settled, self._waiting = [], []

    def _history(self, step: Step | None, content: Tensor | None) -> History:
        if self._flight is not None:
            self._settle(self._flight)
        return super()._history(step, content)

    def exchanges_in(self, call: Call) -> list[Exchange]:
        return []

    def is_puzzled_by(self, event: Event) -> bool:
        return False


class _Line:
    """The events of one rank, in order, with the ends of calls inside which it exchanged."""

    def __init__(self, book: RankBook, events: Sequence[Event]) -> None:
        self.book = book
        self._items = list(self._with_ends(events))
        self._place = 0
        self._told: Event | None = None
        """The event that was looked into already."""

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

    @property
    def puzzle(self) -> Event | None:
        """The event that comes next, if it finds something else than should be there."""
        if self._place >= len(self._items) or self.waiting is not None:
            return None
        event, is_end = self._items[self._place]
        is_new = not is_end and event is not self._told
        return event if is_new and self.book.is_puzzled_by(event) else None

    def advance(self) -> None:
        """Take all events up to the next exchange, or the next that finds what nobody left."""
        while self._place < len(self._items) and self.waiting is None and self.puzzle is None:
            event, is_end = self._items[self._place]
            if is_end and isinstance(event, Call):
                self.book.end(event)
            else:
                self.book.take(event)
            self._place += 1

    def tell(self, event: Event) -> None:
        """The puzzle has been looked into: the event may be taken."""
        self._told = event

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
            rank: _line(joint, buffer, rank, steps.get(rank)) for rank, buffer in buffers.items()
        }
        self._run()

    def book(self, rank: int) -> RankBook:
        return self._lines[rank].book

    def whole(self, rank: int) -> Tensor | None:
        """The parts of a sharded parameter put together, from the ranks that hold one each."""
        own = self.book(rank)
        found: list[Tensor] = []
        for other in own.shards if isinstance(own, ShardBook) else ():
            book = self._lines[other].book if other in self._lines else None
            if not isinstance(book, ShardBook) or not book.is_read:
                return None
            found += [book.content] if book.content is not None else []
        measured = _together(found)
        if measured is None:
            return None
        form = replace(found[0].form, shape=(measured.elements,))
        return Tensor(form, replace(measured, values=None))

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
            puzzles = {rank: p for rank, line in self._lines.items() if (p := line.puzzle)}
            meeting = self._ready(waiting)
            if meeting is None and puzzles:
                self._guess(puzzles)
                continue
            if not waiting:
                return
            meeting = meeting or self._joint.meetings.of(*next(iter(waiting.items())))
            present = {r: e for r, e in waiting.items() if self._joint.meetings.of(r, e) is meeting}
            self._hold(meeting, present)
            for rank in present:
                self._lines[rank].pass_by()

    def _ready(self, waiting: Mapping[int, Exchange]) -> Meeting | None:
        """An operation at which all are that take part."""
        for rank, exchange in waiting.items():
            meeting = self._joint.meetings.of(rank, exchange)
            here = [other for other in meeting.exchanges if other in self._lines]
            if all(meeting.exchanges[other] is waiting.get(other) for other in here):
                return meeting
        return None

    def _guess(self, puzzles: Mapping[int, Event]) -> None:
        """Whether buffers that hold what nobody left hold a multiple of the sum over all ranks.

        So they do after an exchange of copies that could not be recognised: of gradients put
        together and divided, of gathered ones, by a library that talks past torch.
        """
        first = next(iter(puzzles.values()))
        alike = {
            rank: event
            for rank, event in puzzles.items()
            if (type(event), event.step) == (type(first), first.step)
        }
        parts = [part for rank in alike for part in self.book(rank).parts]
        found = {rank: self.book(rank).found_by(event) for rank, event in alike.items()}
        factors = {rank: _ratio(parts, [t]) if t else None for rank, t in found.items()}
        known = [factor for factor in factors.values() if factor is not None]
        is_exchange = len(alike) > 1 and len(known) == len(alike)
        entries = {rank: list(self.book(rank).entries) for rank in alike}
        for rank, event in alike.items():
            tensor, factor = found[rank], factors[rank]
            if is_exchange and tensor is not None and factor is not None:
                error = _off(parts, [tensor], float(factor))
                shared = self._unseen(rank, event, factor, tuple(alike), error)
                mover = _Mover(self._joint, rank)
                moved = [mover.moved(e, other) for other in alike for e in entries[other]]
                words = f"{shared.operation}, of copies"
                change = Change(
                    "rank-operation", words, factor, shared.order, shared.source, False, event.order
                )
                merged = [replace(e, changes=(*e.changes, change)) for e in _merged(moved)]
                self.book(rank).replace_by(merged, tensor, shared)
            self._lines[rank].tell(event)

    def _unseen(
        self, rank: int, event: Event, factor: Exact, ranks: tuple[int, ...], error: float | None
    ) -> Shared:
        """The last operation before the event that was not known to be of any buffer."""
        trace = self._joint.archives[rank].trace
        before = [e for e in trace.exchanges if e.order < event.order and e.wrapper is None]
        kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
        last = next((e for e in reversed(before) if e.kind in kinds), None)
        is_mean = is_same(factor, Fraction(1, len(ranks)))
        words = f"{'average' if is_mean else 'sum'} over {len(ranks):,} ranks"
        by = f"{last.kind} by hand" if last else "by hand"
        source = last.source if last else None
        order = last.order if last else event.order
        return Shared(order, ranks, by, words, factor, source, error=error)

    def _hold(self, meeting: Meeting, present: Mapping[int, Exchange]) -> None:
        offers = {rank: self._lines[rank].book.offer(e) for rank, e in present.items()}
        for rank, exchange in meeting.exchanges.items():
            if rank not in offers and self._is_empty(rank, exchange):
                offers[rank] = _Offer([], [])
        for rank, exchange in present.items():
            book = self._lines[rank].book
            receiver = _Receiver(self._joint, book, meeting, exchange, offers)
            book.accept(exchange, *receiver.received())

    def _is_empty(self, rank: int, exchange: Exchange) -> bool:
        """Whether a rank took part with zeros of nobody's: the shadow of one that has joined."""
        archive = self._joint.archives[rank]
        pieces = archive.trace.layout(exchange.layout).pieces
        measured = archive.trace.measurements(exchange)
        entered = [p for p in pieces if p.moment == "entered"]
        rows = [measured[p.row] for p in entered if p.row is not None]
        return bool(entered) and len(rows) == len(entered) and all(map(is_zero, rows))


def _line(joint: Joint, buffer: int, rank: int, step: Step | None) -> _Line:
    archive, holdings = joint.archives[rank], joint.holdings[rank]
    leaf = holdings.leaf(buffer)
    events = list(reaching(archive, buffer, step))
    if leaf != buffer:
        calls = (e for e in reaching(archive, leaf, step) if isinstance(e, Call))
        events = sorted([*events, *calls], key=lambda event: event.order)
    before = [e for e in events if step is None or e.order <= step.order]
    if holdings.is_sharded(buffer):
        # An empty part does not tell that nothing waits to be exchanged: only a reset does.
        resets = [place for place, event in enumerate(before) if isinstance(event, Reset)]
        start = resets[-1] if resets else 0
        book = ShardBook(archive, buffer, leaf, rank, holdings.is_flat(buffer))
        return _Line(book, events[start:])
    start = beginning(archive, leaf, before)
    is_cut = 0 < start < len(before) and isinstance(before[start], Call)
    whole = RankBook(archive, buffer, rank, emptied="by hand" if is_cut else "")
    return _Line(whole, events[start:])


class _Mover:
    """Brings entries of other ranks to one, with lines as that one numbers them."""

    def __init__(self, joint: Joint, here: int) -> None:
        self._lines = joint.lines
        self._here = here

    def moved(self, entry: Entry, rank: int) -> Entry:
        origin = rank if entry.rank is None else entry.rank
        if rank == self._here:
            return replace(entry, rank=origin)
        changes = tuple(
            replace(change, source=self._lines.moved(change.source, rank, self._here))
            for change in entry.changes
        )
        source = self._lines.moved(entry.source, rank, self._here)
        return replace(entry, source=source, changes=changes, consumed=(), rank=origin)


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
        mover = _Mover(self._joint, self._book.rank)
        entries = _merged([mover.moved(e, r) for r in givers for e in self._offers[r].entries])
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
        entered = [t for rank in givers for t in self._offers[rank].bound_for(self._book.rank)]
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


def _narrowed(entry: Entry, entered: list[Tensor], factor: Exact | None) -> Entry:
    """Of a flat leaf's gradient what belongs to the one parameter that entered."""
    whole = _together(entered)
    if whole is None or entry.tensor is None or entry.tensor.elements == whole.elements:
        return entry
    if not factor:
        return replace(entry, tensor=None)
    form = replace(entry.tensor.form, shape=(whole.elements,))
    return replace(entry, tensor=Tensor(form, _scaled(whole, 1 / float(factor))))


def _of_size(tensor: Tensor, elements: int) -> Tensor:
    form = replace(tensor.form, shape=(elements,))
    measured = tensor.measured
    return Tensor(form, None if measured is None else replace(measured, elements=elements))


def _scaled(measured: Measurement, by: float) -> Measurement:
    return replace(
        measured, sum=measured.sum * by, norm=measured.norm * abs(by),
        largest=measured.largest * abs(by), values=None,
        fingerprint=tuple(x * by for x in measured.fingerprint),
    )  # fmt: skip


def _as_projected(parts: Sequence[Tensor], found: Tensor, factor: Exact) -> Tensor:
    """A reading whose elements lie in another order, with the fingerprint of what it is made of."""
    whole = _together(parts)
    return found if whole is None else Tensor(found.form, _scaled(whole, float(factor)))


def _by_size(parts: Sequence[Tensor], whole: Sequence[Tensor]) -> Exact | None:
    """The factor between tensors in which elements lie in another order: of sum and norm."""
    one, other = _together(parts), _together(whole)
    if len(parts) > 1 and one is not None and other is not None:
        return None if one.elements != other.elements else _size_ratio(one, other)
    return None if one is None or other is None else _size_ratio(one, other)


def _size_ratio(one: Measurement, other: Measurement) -> Exact | None:
    if not one.norm or not one.largest or one.nonfinite or other.nonfinite:
        return None
    factor = other.norm / one.norm
    near = 1e-4
    is_same_shape = math.isclose(other.largest / one.largest, factor, rel_tol=near)
    off = abs(other.sum - factor * one.sum)
    if not is_same_shape or off > near * factor * one.norm * math.sqrt(one.elements):
        return None
    return tidy(factor, 4e-6)


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
