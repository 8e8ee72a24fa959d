"""Whether the books balance: what was sent adds up to what was received, by fingerprints.

Three kinds of account are checked in every backward call: each input of a node (root gradient plus
contributions against what the node received), each gradient that `autograd.grad` handed back, and
each buffer (content before plus what reached it against content after).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tracer.columns import leaves_of, states_of
from tracer.events import Call, Contribution, Layout, Measurement, NodeState, Receipt
from tracer.graph.wiring import Wiring, wiring_of
from tracer.tracefile import NONFINITE, NORM, Trace

__all__ = ["BalanceReport", "Imbalance", "check_balance"]

ROUNDING = {"bfloat16": 4e-2, "float16": 5e-3, "float8_e5m2": 0.5, "float8_e4m3fn": 0.25}
"""How far a sum in a reduced precision may be off, relative to the norms of what was added."""

FLOAT32_ROUNDING = 2e-5
"""The same for float32; float64 too, as fingerprints are kept in float32."""


@dataclass(frozen=True)
class Imbalance:
    """An account that does not add up.

    `error` is the largest difference of a fingerprint component, relative to the sum of the norms;
    `factor` is c where received = c x sum on every component, None where it is no multiple.
    `explanation` says who is known to have changed it, "" where nobody is.
    """

    call: int
    node: int
    input: int
    what: str
    error: float
    factor: float | None
    explanation: str
    buffer: int | None = None


@dataclass(frozen=True)
class BalanceReport:
    """Counts of accounts and what did not add up.

    `worst` is the largest relative error among the accounts that balance. `imbalances` are those
    that nobody recorded explains, `hooked` those that a recorded hook does; `explained` counts the
    latter. `unchecked` accounts had values that could not be measured or are not finite.
    """

    fan_ins: int = 0
    buffers: int = 0
    captures: int = 0
    worst: float = 0.0
    explained: int = 0
    unchecked: int = 0
    imbalances: tuple[Imbalance, ...] = ()
    hooked: tuple[Imbalance, ...] = ()

    @property
    def is_balanced(self) -> bool:
        return not self.imbalances


@dataclass
class _Tally:
    fan_ins: int = 0
    buffers: int = 0
    captures: int = 0
    worst: float = 0.0
    unchecked: int = 0
    imbalances: list[Imbalance] = field(default_factory=list)
    hooked: list[Imbalance] = field(default_factory=list)

    def settle(self, account: _Account) -> None:
        setattr(self, account.kind, getattr(self, account.kind) + 1)
        error = account.error()
        if error is None:
            self.unchecked += 1
        elif error <= account.tolerance:
            self.worst = max(self.worst, error)
        else:
            imbalance = account.imbalance(error)
            (self.hooked if imbalance.explanation else self.imbalances).append(imbalance)


@dataclass(frozen=True)
class _Account:
    """What should add up: `parts` on one side, `total` on the other (None: nothing arrived)."""

    kind: str
    call: int
    node: int
    input: int
    what: str
    parts: Sequence[Measurement | None]
    total: Measurement | None
    tolerance: float
    explanation: str
    buffer: int | None = None
    is_measured: bool = True

    def error(self) -> float | None:
        """The relative difference, None where it cannot be told."""
        everything = [*self.parts, *([self.total] if self.total else [])]
        if not self.is_measured or any(m is None or m.nonfinite for m in everything):
            return None
        scale = sum(m.norm for m in everything if m)
        if not math.isfinite(scale):
            return None
        if len(self.parts) == 1 and self.parts[0] is self.total:
            return 0.0  # measured once: the very tensor that was sent
        if any(m and not m.fingerprint for m in everything):
            return None
        if scale == 0:
            return 0.0
        return max(abs(a - b) for a, b in zip(*self._sides(), strict=True)) / scale

    def _sides(self) -> tuple[list[float], list[float]]:
        everything = [m for m in (*self.parts, self.total) if m is not None]
        # A shard and the whole, of which it is a part, have their fingerprints in common only.
        width = min(len(_terms(m)) for m in everything)
        sums = [
            math.fsum(column)
            for column in zip(*(_terms(m)[:width] for m in self.parts), strict=True)
        ]
        return sums or [0.0] * width, _terms(self.total)[:width] if self.total else [0.0] * width

    def imbalance(self, error: float) -> Imbalance:
        factor = _ratio(*self._sides(), self.tolerance)
        return Imbalance(
            self.call, self.node, self.input, self.what, error, factor, self.explanation,
            self.buffer,
        )  # fmt: skip


def _terms(measurement: Measurement | None) -> list[float]:
    """The linear numbers of a measurement: fingerprint, and all values where they are few."""
    if measurement is None:
        return []
    terms = list(measurement.fingerprint)
    for value in measurement.values or ():
        terms += (value.real, value.imag) if isinstance(value, complex) else (value,)
    return terms


def _ratio(sums: Sequence[float], totals: Sequence[float], tolerance: float) -> float | None:
    """c where total = c x sum on every component."""
    squares = math.fsum(s * s for s in sums)
    if squares == 0:
        return None
    factor = math.fsum(s * t for s, t in zip(sums, totals, strict=True)) / squares
    off = max(abs(t - factor * s) for s, t in zip(sums, totals, strict=True))
    return factor if off <= tolerance * math.sqrt(squares) * (1 + abs(factor)) else None


def check_balance(trace: Trace, calls: Iterable[Call] | None = None) -> BalanceReport:
    """Check every account of a trace, or of some of its calls."""
    tally = _Tally()
    chosen = list(trace.calls if calls is None else calls)
    for together in _overlapping(chosen):
        books = [_Book(trace, call) for call in together]
        for book in books:
            tally.fan_ins += book.handed_on
            tally.unchecked += book.unmeasured
            for account in book.accounts():
                tally.settle(account)
        for account in _buffer_accounts(trace, books):
            tally.settle(account)
    return BalanceReport(
        tally.fan_ins, tally.buffers, tally.captures, tally.worst, len(tally.hooked),
        tally.unchecked, tuple(tally.imbalances), tuple(tally.hooked),
    )  # fmt: skip


def _overlapping(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls that ran at the same time, nested or on other threads, share their buffers' books."""
    together: list[Call] = []
    end = -math.inf
    for call in sorted(calls, key=lambda c: c.started):
        if together and call.started > end:
            yield together
            together = []
        together.append(call)
        end = max(end, call.started + call.seconds)
    if together:
        yield together


class _Book:
    """One call with its measurements at hand."""

    def __init__(self, trace: Trace, call: Call) -> None:
        self.call = call
        self.layout: Layout = trace.layout(call.layout)
        assert self.layout.structure is not None
        self.structure = trace.structure(self.layout.structure)
        self._forms = trace.forms
        self._measured = trace.measured(call)
        self.writers = {buffer: node for node, buffer in leaves_of(self.structure.nodes).items()}
        self.readings = {(r.buffer, r.moment): r for r in self.layout.readings}
        self._wiring = wiring_of(self.structure, self.layout)
        self.handed_on = self.unmeasured = 0
        """Inputs at which one contribution arrived as it was sent, and those among them of which
        that is not known.
        """
        if self._wiring is None:
            self._receipts = {(r.node, r.input): r for r in self.layout.receipts}
        else:
            self._others = self._pass_on(self._wiring)

    def _pass_on(self, wiring: Wiring) -> list[int]:
        """Settle the inputs of a large call that need no sum; the nodes that are left."""
        norms, counts = self._measured.column(NORM), self._measured.column(NONFINITE)
        came, aboves = wiring.arriving.starts, wiring.arriving.rows
        got, receipts_of = wiring.received.starts, wiring.received.rows
        receipts, kinds = wiring.receipts, wiring.states.kinds
        asked = {root.node for root in self.layout.roots}
        asked |= {capture.node for capture in self.layout.captures}
        others: list[int] = []
        for node, said in enumerate(wiring.said):
            above, receipt = came[node], got[node]
            is_one = came[node + 1] - above == 1 == got[node + 1] - receipt
            if not is_one or node in asked:
                others.append(node)
                continue
            place, receipt = aboves[above], receipts_of[receipt]
            row = receipts.row[receipt]
            if row != wiring.row[place] or receipts.input[receipt] != wiring.input[place]:
                others.append(node)
            elif said >= 0 and kinds[said].ran:
                self.handed_on += 1
                if row < 0 or counts[row] or not math.isfinite(norms[row]):
                    self.unmeasured += 1
        return others

    def receipt(self, place: tuple[int, int]) -> Receipt | None:
        """What a node received at an input."""
        if self._wiring is None:
            return self._receipts.get(place)
        found = map(self.layout.receipts.__getitem__, self._wiring.received[place[0]])
        return next((receipt for receipt in found if receipt.input == place[1]), None)

    def measured(self, row: int | None) -> Measurement | None:
        return None if row is None else self._measured[row]

    def state(self, node: int) -> NodeState:
        found = self._state(node)
        return NodeState(node, ran=False) if found is None else found

    @cached_property
    def _state(self) -> Callable[[int], NodeState | None]:
        return states_of(self.layout.states)

    def tolerance(self, *forms: int) -> float:
        return max(ROUNDING.get(self._forms[form].dtype, FLOAT32_ROUNDING) for form in forms)

    def accounts(self) -> Iterator[_Account]:
        """Every input that something was sent to or received at, and every captured gradient."""
        sent = self._sent()
        for place in sorted(sent.keys() | self._received()):
            if self.state(place[0]).ran:
                yield self._fan_in(place, sent.get(place, []), self.receipt(place))
        for capture in self.layout.captures:
            place = (capture.node, capture.input)
            if capture.form is not None and place in sent:
                parts, forms = zip(*sent[place], strict=True)
                yield self._account(
                    "captures", place, "gradient handed back by autograd.grad", parts,
                    self.measured(capture.row), (capture.form, *forms), capture.row is not None,
                )  # fmt: skip

    def _sent(self) -> dict[tuple[int, int], list[tuple[Measurement | None, int]]]:
        sent = defaultdict(list)
        for root in self.layout.roots:
            if root.gradient is not None:
                sent[root.node, root.input].append((self.measured(root.gradient), root.form))
        for contribution in self._contributions():
            edge = self.structure.edges[contribution.edge]
            sent[edge.receiver, edge.input].append(
                (self.measured(contribution.row), contribution.form)
            )
        return sent

    def _contributions(self) -> Iterable[Contribution]:
        contributions, wiring = self.layout.contributions, self._wiring
        if wiring is None:
            return contributions
        places = sorted(place for node in self._others for place in wiring.arriving[node])
        return map(contributions.__getitem__, places)

    def _received(self) -> set[tuple[int, int]]:
        """The inputs at which something was received, but those that are settled."""
        wiring = self._wiring
        if wiring is None:
            return set(self._receipts)
        inputs = wiring.receipts.input
        return {(node, inputs[p]) for node in self._others for p in wiring.received[node]}

    def _fan_in(
        self,
        place: tuple[int, int],
        sent: Sequence[tuple[Measurement | None, int]],
        receipt: Receipt | None,
    ) -> _Account:
        forms = [form for _, form in sent]
        total = None
        if receipt is not None:
            forms.append(receipt.form)
            total = self.measured(receipt.row)
        what = f"{self.structure.nodes[place[0]].name} input {place[1]}"
        is_measured = receipt is None or total is not None
        return self._account(
            "fan_ins", place, what, [part for part, _ in sent], total, forms, is_measured
        )

    def _account(
        self,
        kind: str,
        place: tuple[int, int],
        what: str,
        parts: Sequence[Measurement | None],
        total: Measurement | None,
        forms: Sequence[int],
        is_measured: bool,
    ) -> _Account:
        hooks = self.state(place[0]).hooks[0]
        explanation = f"{hooks} hook{'s' if hooks > 1 else ''} before the node" if hooks else ""
        return _Account(
            kind, self.call.order, *place, what, parts, total, self.tolerance(*forms), explanation,
            is_measured=is_measured,
        )  # fmt: skip


def _buffer_accounts(trace: Trace, books: Sequence[_Book]) -> Iterator[_Account]:
    """Per buffer: what the first call found, what all of them added, what the last one left."""
    done = [book for book in books if book.call.accumulates and book.call.outcome == "done"]
    if len(done) < len([book for book in books if book.call.accumulates]):
        return  # a call that failed half way leaves its buffers in between
    first = sorted(done, key=lambda book: book.call.started)
    last = sorted(done, key=lambda book: book.call.started + book.call.seconds, reverse=True)
    for buffer in sorted({r.buffer for book in done for r in book.layout.readings}):
        yield _buffer_account(trace, buffer, first, last)


def _buffer_account(
    trace: Trace, buffer: int, first: Sequence[_Book], last: Sequence[_Book]
) -> _Account:
    parts: list[Measurement | None] = []
    forms: list[int] = []
    hooks, place = 0, (0, 0)
    touching = [book for book in first if buffer in book.writers]
    _add_reading(touching[0], buffer, "before", parts, forms)
    for book in touching:
        place = (book.writers[buffer], 0)
        hooks += book.state(place[0]).hooks[2]
        receipt = book.receipt(place)
        if receipt is not None and not book.state(place[0]).saved.get("frozen"):
            parts.append(book.measured(receipt.row))
            forms.append(receipt.form)
    totals: list[Measurement | None] = []
    closing = next(book for book in last if buffer in book.writers)
    _add_reading(closing, buffer, "after", totals, forms)
    explanation = f"{hooks} hook{'s' if hooks > 1 else ''} after accumulation" if hooks else ""
    changed = _changed_inside(trace, buffer, touching)
    return _Account(
        "buffers", closing.call.order, *place, trace.buffers[buffer].name or f"buffer {buffer}",
        parts, totals[0] if totals else None,
        closing.tolerance(*forms) if forms else FLOAT32_ROUNDING,
        explanation or changed, buffer, is_measured=not totals or totals[0] is not None,
    )  # fmt: skip


def _add_reading(
    book: _Book, buffer: int, moment: str, found: list[Measurement | None], forms: list[int]
) -> None:
    reading = book.readings.get((buffer, moment))
    if reading is not None:
        found.append(book.measured(reading.row))
        forms.append(reading.form)


def _changed_inside(trace: Trace, buffer: int, books: Sequence[_Book]) -> str:
    """What may have changed it between the readings, from inside a hook or another thread."""
    exchanged = _exchanged_inside(trace, buffer, {book.call.order for book in books})
    if exchanged:
        return exchanged
    if trace.info.world > 1 and not trace.exchanges:
        return f"exchange between {trace.info.world} ranks, which is not recorded"
    start = min(book.call.started for book in books)
    end = max(book.call.started + book.call.seconds for book in books)
    for reset in trace.resets:
        if start <= reset.started <= end and buffer in reset.buffers:
            return f"{reset.by} during the call"
    for step in trace.steps:
        if start <= step.started <= end:
            return f"{step.kind}.step during the call"
    return ""


def _exchanged_inside(trace: Trace, buffer: int, calls: set[int]) -> str:
    """What ranks exchanged of the buffer inside these calls, or for a wrapper that holds it."""
    for exchange in trace.exchanges:
        if exchange.call not in calls:
            continue
        pieces = trace.layout(exchange.layout).pieces
        ranks = len(trace.groups[exchange.group].ranks)
        if any(p.buffer == buffer and p.content == "gradient" for p in pieces):
            return f"exchanged between {ranks:,} ranks"
        wrapper = trace.wrappers.get(exchange.wrapper) if exchange.wrapper is not None else None
        if wrapper and any(buffer in bucket for bucket in wrapper.buckets):
            hook = str(wrapper.details.get("hook", "")).rpartition(".")[2]
            return f"{hook or wrapper.kind} between {ranks:,} ranks"
    return ""
