"""How much of a gradient comes from each contribution, and from each term of the loss.

A share is the projection of a part on the whole, <part, whole> / <whole, whole>: shares of all
parts add up to 1, and one that pulls the other way is negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.exact import product
from tracer.analysis.history import Entry, History
from tracer.analysis.ledger import Books, Ledger, Term
from tracer.events import Call, Edit, Measurement

__all__ = ["Share", "TermShare", "TermShares", "shares_of", "shares_of_parts", "terms_of"]

ROUNDING = 3e-7
"""How far the square of a norm may be off, which was measured in float32."""

WORTH_SAYING = 0.005


@dataclass(frozen=True)
class Share:
    """A part of the whole, and how far it may be off (one standard deviation)."""

    value: float
    error: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether the error is smaller than what is printed."""
        return self.error < WORTH_SAYING


@dataclass(frozen=True)
class TermShare:
    """One term of the loss, and its part of a gradient, of this `norm`.

    `losses` are those of the ledger that lie in it. `source` is the line that made the node at
    which the term ends.
    """

    losses: tuple[Term, ...]
    source: int | None
    share: Share
    norm: float | None


@dataclass(frozen=True)
class TermShares:
    """The terms of all the calls that are in a buffer; `missing` says why there are none."""

    terms: tuple[TermShare, ...] = ()
    missing: str = ""


def shares_of(history: History) -> list[Share | None]:
    """How much of what is consumed each entry is.

    Of two contributions norms alone tell the angle between them, of small ones the values; else the
    projections of fingerprints do, and only roughly.
    """
    entries, content = history.entries, history.content
    whole = None if content is None else content.measured
    parts = [_part_of(entry) for entry in entries]
    if whole is None or whole.nonfinite or whole.norm == 0:
        return [None] * len(entries)
    is_plain = not any(entry.is_rest or entry.copies > 1 for entry in entries)
    if len(entries) == 1 and is_plain:
        return [Share(1.0) if parts[0] is not None else None]
    return _of_parts(parts, whole, is_plain)


def shares_of_parts(parts: Sequence[Measurement | None], whole: Measurement | None) -> list[Share]:
    """How much of a sum each of its parts is; [] where that is not known."""
    known = [_Part(part, 1.0) for part in parts if part is not None and not part.nonfinite]
    if whole is None or whole.nonfinite or whole.norm == 0 or len(known) < len(parts):
        return []
    found = [share for share in _of_parts(known, whole, True) if share is not None]
    return found if len(found) == len(parts) else []


def _of_parts(
    parts: Sequence[_Part | None], whole: Measurement, are_sum: bool
) -> list[Share | None]:
    known = [part for part in parts if part is not None]
    if len(parts) == len(known) == 2 and are_sum and not whole.values:
        return list(_of_two(known[0], known[1], whole))
    return [None if part is None else _projected(part, whole) for part in parts]


@dataclass(frozen=True)
class _Part:
    """A contribution, and the product of all that multiplied it since."""

    measured: Measurement
    factor: float

    @property
    def norm(self) -> float:
        return abs(self.factor) * self.measured.norm


def _part_of(entry: Entry) -> _Part | None:
    factor = product(change.factor for change in entry.changes)
    measured = entry.tensor.measured if entry.tensor is not None else None
    if factor is None or measured is None or measured.nonfinite:
        return None
    return _Part(measured, float(factor))


def _of_two(a: _Part, b: _Part, whole: Measurement) -> tuple[Share, Share]:
    """|a + b|^2 = |a|^2 + 2 <a, b> + |b|^2."""
    squares = (a.norm**2, b.norm**2, whole.norm**2)
    between = (squares[2] - squares[0] - squares[1]) / 2
    error = ROUNDING * sum(squares) / squares[2]
    first, second = ((square + between) / squares[2] for square in squares[:2])
    return Share(first, error), Share(second, error)


def _projected(part: _Part, whole: Measurement) -> Share | None:
    if whole.values and part.measured.values and whole.elements == part.measured.elements:
        dot = sum(_inner(x, y) for x, y in zip(whole.values, part.measured.values, strict=True))
        square = sum(_inner(x, x) for x in whole.values)
        return Share(part.factor * dot / square) if square else None
    if not whole.fingerprint or not part.measured.fingerprint:
        return None
    pairs = zip(whole.fingerprint, part.measured.fingerprint, strict=True)
    square = math.fsum(x * x for x in whole.fingerprint)
    if square == 0:
        return None
    share = part.factor * math.fsum(x * y for x, y in pairs) / square
    # What is at right angles to the whole is seen by each component with a random sign.
    beside = max((part.norm / whole.norm) ** 2 - share**2, 0.0)
    return Share(share, math.sqrt(beside / len(whole.fingerprint)))


def _inner(x: float | complex, y: float | complex) -> float:
    return (x * complex(y).conjugate()).real


def terms_of(ledger: Ledger, books: Books) -> TermShares:
    """The terms of the loss that were recorded for the calls of a ledger.

    Of several calls a term's share is that in each call, times the share of the call.
    """
    found: dict[object, _Gathered] = {}
    calls = shares_of(ledger.history)
    for entry, call in zip(ledger.history.entries, calls, strict=True):
        if entry.rank not in (None, books.rank):
            return TermShares(missing="part of it comes from other ranks")
        edit = _recorded(entry, books)
        why = _why_not(edit, entry, ledger.buffer)
        if edit is None or why or call is None or entry.call is None:
            return TermShares(missing=why or "a contribution is not known")
        facts = books.archive.call(entry.call)
        place = edit.details["buffers"].index(ledger.buffer)
        for number, sent in enumerate(edit.details["terms"]):
            losses, source = _meant(facts, tuple(sent), ledger, books, entry.call)
            known = found.setdefault(losses or source, _Gathered(losses, source))
            square = edit.details["squares"][place]
            part = edit.details["dots"][place][number] / square if square else 0.0
            known.add(part, call, edit.details["norms"][place][number])
    return TermShares(tuple(one.share() for one in found.values()))


@dataclass
class _Gathered:
    losses: tuple[Term, ...]
    source: int | None
    parts: list[tuple[float, Share]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def add(self, part: float, call: Share, norm: float) -> None:
        self.parts.append((part, call))
        self.norms.append(norm)

    def share(self) -> TermShare:
        value = math.fsum(part * call.value for part, call in self.parts)
        error = math.sqrt(math.fsum((part * call.error) ** 2 for part, call in self.parts))
        norm = self.norms[0] if len(self.norms) == 1 else None
        return TermShare(self.losses, self.source, Share(value, error), norm)


def _recorded(entry: Entry, books: Books) -> Edit | None:
    """What was written of the terms of a call: right before it."""
    if entry.call is None:
        return None
    events = books.archive.events
    for place in range(books.archive.places[entry.call] - 1, -1, -1):
        event = events[place]
        if isinstance(event, Edit) and event.kind == "terms":
            return event
        if isinstance(event, Call) and event.nested_in is None:
            return None
    return None


def _why_not(edit: Edit | None, entry: Entry, buffer: int) -> str:
    if entry.call is None:
        return "a part of it was there before anything was recorded"
    if entry.rank is not None:
        return "it is put together from what several ranks sent"
    if edit is None:
        return "its loss has a single term, or was recorded without `trace --terms`"
    if "skipped" in edit.details:
        return f"the terms were left out: {edit.details['skipped']}"
    return "" if buffer in edit.details["buffers"] else "the terms of its call were not recorded"


def _meant(
    facts: CallFacts, sent: tuple[Any, ...], ledger: Ledger, books: Books, call: int
) -> tuple[tuple[Term, ...], int | None]:
    """The losses of the ledger that lie below where a term begins, and the line that made it."""
    sender, output = sent
    starts = [s.edge.receiver for s in facts.leaving.get(sender, ()) if s.edge.output == output]
    sites = books.flow(call).sites
    ends = {ended.node: site for site, ended in sites.items() if site[0] == call}
    below = _reached(facts, starts, set(ends))
    rows = [row for row in ledger.rows if row.call == call and sites[call, row.site].node in below]
    source = facts.node(starts[0]).source if starts else None
    return tuple(dict.fromkeys(row.term for row in rows)), source


def _reached(facts: CallFacts, starts: Sequence[int], ends: set[int]) -> set[int]:
    seen, stack = set(starts), list(starts)
    while stack:
        node = stack.pop()
        if node in ends:
            continue
        for sent in facts.leaving.get(node, ()):
            if sent.edge.receiver not in seen:
                seen.add(sent.edge.receiver)
                stack.append(sent.edge.receiver)
    return seen
