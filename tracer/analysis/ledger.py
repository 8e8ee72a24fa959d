"""For a buffer and a step: every item of every loss, factor by factor, to the value consumed.

Item weight is d(what the optimizer consumes)/d(one item's loss), as a multiple of the item's own
gradient. One row per backward call, replica and reduction site; verdicts follow from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from weakref import WeakKeyDictionary

from tracer.analysis.callfacts import CallFacts, Tensor
from tracer.analysis.exact import is_rough, is_same, product
from tracer.analysis.flow import CallFlow, Passed, flow_of
from tracer.analysis.history import Archive, Change, Entry, History, fills_of, history_of, ratio
from tracer.analysis.holdings import Holdings
from tracer.analysis.lines import LinesOfRanks
from tracer.analysis.meetings import Meetings
from tracer.analysis.network import Network, batch_below
from tracer.analysis.rankhistory import Joint, Replay
from tracer.analysis.strand import OF_ITEMS, Ended, Factor, Reduction, Spread, Strand
from tracer.events import Exchange, Step
from tracer.graph.names import Names
from tracer.semantics.effects import Exact, ScatterAdds, Selects
from tracer.tracefile import Trace

__all__ = ["Books", "Ledger", "Row", "Samples", "Term", "steps_of"]

NOT_MULTIPLIED = "opaque"
"""The kind of factor that is told but not counted: a function's own derivative may have it too."""


@dataclass(frozen=True)
class Term:
    """What makes the rows of several calls the same loss: the lines of its reduction and items."""

    source: int | None
    name: str
    items: int | None


@dataclass(frozen=True)
class Samples:
    """The samples that elements belong to.

    `each` is how many elements one has, `inside` how these were reduced: "sum", "mean", or "" where
    a sample has a single one. `weight` is that of a whole sample, at the loss.
    """

    count: int
    each: int
    inside: str
    weight: Exact


@dataclass(frozen=True)
class Row:
    """The items of one reduction site in one call, of one rank.

    `items` are those that count, `masked` those that a mask or an ignored target left out. `weight`
    is that of one item in what is consumed: the product of `loss` (in the graph, up to the items)
    and `after` (hooks, then changes of the buffer). None where `unknown` says why. Where items
    differ (`is_uneven`) it is the average, and `least` and `largest` are the extremes; of a large
    number of items only the magnitude of the largest is known, and `least` is None. `copies` is how
    many ranks it stands for, all taken to be equal.

    `inside` is what belongs to the item, after its last reduction: the sign it was turned by, a
    number of its own (kind "own") that it was multiplied with. `own` is then what the item weighs
    with it, which is no part of `weight`. `made` says of a single value what it was made of.
    `again` are the calls that sent these very items backward before, on a graph that was retained.
    """

    call: int
    number: int
    site: int
    replica: int | None
    term: Term
    items: int
    masked: int
    reductions: tuple[Reduction, ...]
    loss: tuple[Factor, ...]
    after: tuple[Factor, ...]
    weight_at_loss: Exact | None
    weight: Exact | None
    samples: Samples | None
    least: float | None = None
    largest: float | None = None
    unknown: str = ""
    is_repeated: bool = False
    rank: int | None = None
    copies: int = 1
    is_uneven: bool = False
    inside: tuple[Factor, ...] = ()
    own: Spread | None = None
    made: str = ""
    again: tuple[int, ...] = ()

    @property
    def total(self) -> Exact | None:
        """The weights of all its items together."""
        if self.weight is None:
            return None
        last = self.reductions[-1] if self.reductions else None
        if last is not None and last.kind == "weighted-mean":
            return None if last.denominator is None else self.weight * last.denominator
        return self.weight * self.items

    @property
    def is_turned(self) -> bool:
        """Whether its items have the other sign than what is reduced."""
        return sum(factor.kind == "sign" for factor in self.inside) % 2 == 1

    def flipped(self) -> Row:
        """The same row with the other sign: a loss that is maximised is a negated mean."""
        if self.weight is None:
            return self
        minus = Fraction(-1)
        ends = (self.least, self.largest)
        if self.is_uneven and self.least is not None and self.largest is not None:
            ends = (-self.largest, -self.least)
        return replace(
            self,
            weight=-self.weight,
            weight_at_loss=product((self.weight_at_loss, minus)),
            samples=self.samples and replace(self.samples, weight=-self.samples.weight),
            least=ends[0],
            largest=ends[1],
            own=self.own and self.own.times(minus),
        )


@dataclass(frozen=True)
class Ledger:
    """One buffer at one step, on one rank.

    `rest` are ranks whose part is only known as what is left over: their files are missing. `alike`
    are other ranks that consumed the same in this step, `unlike` those that consumed another. Of a
    sharded parameter `whole` is what all ranks consumed, put together.
    """

    buffer: int
    step: Step | None
    history: History
    rows: tuple[Row, ...]
    replicas: int = 1
    unknown: str = ""
    fill: int | None = None
    rest: tuple[int, ...] = ()
    rank: int | None = None
    alike: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    whole: Tensor | None = None

    @property
    def content(self) -> Tensor | None:
        """What was consumed; of a sharded parameter by all ranks together."""
        return self.whole or self.history.content

    @property
    def norm(self) -> float | None:
        content = self.content
        return None if content is None or content.measured is None else content.measured.norm


class Books:
    """The ledgers of one trace; what came from other ranks is in them, as far as `ranks` has it."""

    def __init__(self, trace: Trace, ranks: Mapping[int, Trace] | None = None) -> None:
        self.trace = trace
        self.rank = trace.info.rank
        self.archive = Archive(trace)
        self.names = Names(trace)
        self.holdings = Holdings(self.archive, self.names)
        self._network = Network(trace)
        self._flows: dict[int, CallFlow] = {}
        self._ledgers: dict[tuple[int, int | None], Ledger] = {}
        self._samples: dict[tuple[int, int], Samples | None] = {}
        self._others = {r: Books(t) for r, t in (ranks or {}).items() if r != self.rank}
        self._replays: dict[tuple[str, int | None], Replay] = {}

    @cached_property
    def ranks(self) -> dict[int, Books]:
        """The books of every rank that is there, this one among them."""
        return dict(sorted({self.rank: self, **self._others}.items()))

    @cached_property
    def joint(self) -> Joint:
        """What all ranks exchanged."""
        traces = {rank: books.trace for rank, books in self.ranks.items()}
        archives = {rank: books.archive for rank, books in self.ranks.items()}
        holdings = {rank: books.holdings for rank, books in self.ranks.items()}
        return Joint(archives, holdings, Meetings(traces), LinesOfRanks(traces))

    @property
    def by_name(self) -> dict[str, int]:
        """Every buffer once, by its name."""
        return self.holdings.by_name

    def same(self, buffer: int) -> dict[int, int]:
        """The number of this buffer on each rank that has one of its name."""
        name = self.names.buffer(buffer)
        found = {r: b.by_name[name] for r, b in self.ranks.items() if name in b.by_name}
        return {**found, self.rank: buffer}

    def is_exchanged(self, buffer: int) -> bool:
        """Whether something of its gradient went into an operation between ranks, or may have."""
        if self.holdings.is_sharded(buffer):
            return True
        if not self.trace.exchanges:
            return False
        wrapped = self.trace.wrappers.values()
        return (
            len(self.ranks) > 1
            or any(self.archive.exchanges(event, buffer) for event in self.trace.exchanges)
            or any(buffer in bucket for wrapper in wrapped for bucket in wrapper.buckets)
        )

    def ledger(self, buffer: int, step: Step | None) -> Ledger:
        """The buffer up to a step, or to the end of the trace."""
        key = (buffer, None if step is None else step.order)
        if key not in self._ledgers:
            self._ledgers[key] = self._of(self._history(buffer, step), step)
        return self._ledgers[key]

    def fills(self, buffer: int) -> list[Ledger]:
        """One for each time the buffer was filled, of a run without steps."""
        if self.is_exchanged(buffer):
            histories = self._replay(buffer, None).book(self.rank).fills()
        else:
            histories = fills_of(self.archive, buffer)
        return [self._of(h, None, n) for n, h in enumerate(histories, start=1)]

    def _history(self, buffer: int, step: Step | None) -> History:
        if not self.is_exchanged(buffer):
            return history_of(self.archive, buffer, step)
        return self._replay(buffer, step).history(self.rank)

    def _replay(self, buffer: int, step: Step | None) -> Replay:
        key = (self.names.buffer(buffer), None if step is None else step.step)
        if key not in self._replays:
            same = self.same(buffer)
            steps = {r: self.ranks[r].step_like(step, number) for r, number in same.items()}
            replay = Replay(self.joint, same, {**steps, self.rank: step})
            for books in self.ranks.values():
                books._replays[key] = replay
        return self._replays[key]

    def step_like(self, step: Step | None, buffer: int) -> Step | None:
        """The step of this rank that is called the same; None if there is none, or no step."""
        if step is None:
            return None
        return next((s for s in steps_of(self.trace, buffer) if s.step == step.step), None)

    def flow(self, order: int) -> CallFlow:
        if order not in self._flows:
            facts = self.archive.call(order)
            outer = facts.call.nested_in
            known = outer is not None and outer in self.archive.by_order
            self._flows[order] = flow_of(
                facts, self._network, self.flow(outer) if known and outer is not None else None
            )
        return self._flows[order]

    def _of(self, history: History, step: Step | None, fill: int | None = None) -> Ledger:
        rows: list[Row] = []
        mates: list[Row] = []
        unknown = ""
        for entry in history.entries:
            if entry.call is None:
                if not entry.is_rest:
                    unknown = self._unwritten(entry, history)
                continue
            found = self._rows_of(history.buffer, entry)
            if not found:
                unknown = f"no loss was found above {self._call_words(entry)}"
            rows += found
            mates += self._mates(history.buffer, entry)
        if mates:
            rows = [row if row.rank is not None else replace(row, rank=self.rank) for row in rows]
            history = replace(history, entries=tuple(map(self._named, history.entries)))
        rows = sorted(_alike_in_sign(_once_each([*rows, *mates])), key=_place_of)
        if not history.entries:
            unknown = "no recorded backward call wrote it"
        own = [e for e in history.entries if e.rank in (None, self.rank)]
        replicas = max((self._replicas(history.buffer, e) for e in own), default=1)
        rest = tuple(e.rank for e in history.entries if e.is_rest and e.rank is not None)
        alike, unlike = self._compared(history, step)
        whole = None
        if step is not None and history.shared and self.holdings.is_sharded(history.buffer):
            whole = self._replay(history.buffer, step).whole(self.rank)
        return Ledger(
            history.buffer, step, history, tuple(rows), replicas, unknown, fill, rest, self.rank,
            alike, unlike, whole,
        )  # fmt: skip

    def _unwritten(self, entry: Entry, history: History) -> str:
        """Why nothing is known of content that no call wrote."""
        if not entry.by_hand:
            before = "before anything was recorded"
            earlier = [c for c in self.trace.calls if c.order < (history.step or 0)]
            if earlier and not any(self.archive.reaches(call, history.buffer) for call in earlier):
                return f"no recorded call gave it: it was put there by hand, or {before}"
            return f"the buffer held something {before}"
        calls = [self.archive.numbers[order] for order in entry.candidates]
        if not calls:
            return "it was put there by hand"
        shown = ", ".join(map(str, calls[:6])) + (" ..." if calls[6:] else "")
        of = f"call {shown}" if len(calls) == 1 else f"one of the calls {shown}"
        return f"it was put there by hand, and is no multiple of what {of} gave"

    def _compared(
        self, history: History, step: Step | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The other ranks that consumed the same content in this step, and those that did not."""
        alike: list[int] = []
        unlike: list[int] = []
        content = history.content
        is_whole = not self.trace.buffers[history.buffer].parts
        is_whole = is_whole and not self.holdings.is_sharded(history.buffer)
        if step is None or content is None or not is_whole:
            return (), ()
        for rank, buffer in self.same(history.buffer).items():
            other = self.ranks[rank].consumed(buffer, step) if rank != self.rank else None
            if other is not None and other.elements == content.elements:
                (alike if ratio([content], other) == 1 else unlike).append(rank)
        return tuple(alike), tuple(unlike)

    def consumed(self, buffer: int, step: Step) -> Tensor | None:
        """What this rank consumed of a buffer in the step that is called the same."""
        own = self.step_like(step, buffer)
        return None if own is None else self.archive.reading(own, buffer, "consumed")

    def _call_words(self, entry: Entry) -> str:
        books = self.ranks[self.rank if entry.rank is None else entry.rank]
        number = books.archive.numbers[entry.call] if entry.call is not None else "?"
        return f"call {number}" + (f" of rank {entry.rank}" if books is not self else "")

    def _rows_of(self, buffer: int, entry: Entry) -> list[Row]:
        """The rows of a contribution, whichever rank it comes from."""
        if entry.rank is None:
            return self._rows(buffer, entry)
        books = self.ranks[entry.rank]
        rows = books._rows(self.same(buffer)[entry.rank], entry)
        count = len(entry.changes)
        return [self._moved(row, entry.rank, count) for row in rows]

    def _named(self, entry: Entry) -> Entry:
        return replace(entry, rank=self.rank) if entry.rank is None else entry

    def _mates(self, buffer: int, entry: Entry) -> Iterator[Row]:
        """The rows of losses of other ranks that reach a contribution through a collective."""
        rank = self.rank if entry.rank is None else entry.rank
        if entry.call is None:
            return
        own = self.ranks[rank]
        leaf = own.holdings.leaf(self.same(buffer)[rank])
        changes = tuple(_factor(change, None) for change in entry.changes)
        for other, call, node in own.reached_from(entry.call, leaf):
            books = self.ranks[other]
            flow, came = books.flow(call), replace(entry, rank=other, call=call)
            for site, passed in flow.at_node.get(node, {}).items():
                row = books._row(came, site, flow.sites[site], passed, changes)
                yield self._moved(row, other, len(changes))

    def reached_from(self, order: int, leaf: int) -> Iterator[tuple[int, int, int]]:
        """Rank, call and node on other ranks at which a gradient meets that of this call.

        Only at nodes that lead to the leaf: collectives of the forward, exchanged by the engine.
        """
        exchanges = [
            e for e in self.trace.exchanges
            if e.call == order and e.node is not None and e.wrapper is None
        ]  # fmt: skip
        if not exchanges or len(self.ranks) < 2:
            return
        above = self._above(order, leaf)
        found: dict[tuple[int, int, int], None] = {}
        for exchange in exchanges:
            if exchange.node not in above or _is_of_gradients(self.trace, exchange):
                continue
            for other, event in self.joint.meetings.of(self.rank, exchange).exchanges.items():
                if other != self.rank and event.call is not None and event.node is not None:
                    found[other, event.call, event.node] = None
        yield from found

    def _above(self, order: int, leaf: int) -> set[int]:
        """The nodes of a call whose gradients reach a leaf."""
        facts = self.archive.call(order)
        stack, seen = [facts.writers.get(leaf, -1)], set[int]()
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack += [sent.edge.sender for sent in facts.arriving.get(node, ())]
        return seen

    def _moved(self, row: Row, rank: int, changes: int) -> Row:
        """A row of another rank, its lines as this one numbers them; its changes are so already."""

        def here(source: int | None) -> int | None:
            return self.joint.lines.moved(source, rank, self.rank)

        def moved(factors: Iterable[Factor]) -> tuple[Factor, ...]:
            return tuple(replace(factor, source=here(factor.source)) for factor in factors)

        if rank == self.rank:
            return replace(row, rank=rank)
        passed = row.after[: len(row.after) - changes]
        return replace(
            row,
            rank=rank,
            term=Term(here(row.term.source), row.term.name, here(row.term.items)),
            reductions=tuple(replace(r, source=here(r.source)) for r in row.reductions),
            loss=moved(row.loss),
            after=(*moved(passed), *row.after[len(passed) :]),
        )

    def _rows(self, buffer: int, entry: Entry) -> list[Row]:
        assert entry.call is not None
        flow = self.flow(entry.call)
        reached = flow.buffers.get(self.holdings.leaf(buffer), {})
        changes = tuple(_factor(change, entry.tensor) for change in entry.changes)
        return [
            self._row(entry, site, flow.sites[site], passed, changes)
            for site, passed in reached.items()
        ]

    def _row(
        self,
        entry: Entry,
        site: tuple[int, int],
        ended: Ended,
        passed: Passed,
        changes: tuple[Factor, ...],
    ) -> Row:
        assert entry.call is not None
        facts = self.archive.call(site[0])
        strand = ended.strand
        after = (*passed.factors, *changes)
        counted = [factor.value for factor in after if factor.kind != NOT_MULTIPLIED]
        unknown = strand.unknown or passed.mixed or _unknown(after)
        weight = None if unknown else product((strand.weight, *counted))
        later = product(counted)
        least, largest = _spread(ended, later)
        return Row(
            call=site[0],
            number=self.archive.numbers[site[0]],
            site=site[1],
            replica=self._replica(facts, ended),
            term=_term(facts, ended),
            items=strand.live,
            masked=strand.masked,
            reductions=strand.reductions,
            loss=strand.factors,
            after=after,
            weight_at_loss=strand.weight,
            weight=weight,
            samples=self._samples_of(facts, site, ended),
            least=least,
            largest=largest,
            unknown=unknown,
            is_repeated=bool(entry.consumed[:-1]),
            copies=entry.copies,
            is_uneven=strand.spread is not None,
            inside=tuple(f for f in strand.since if f.kind in OF_ITEMS),
            own=_own(strand, later),
            made=strand.made,
            again=self._again(facts, ended),
        )

    def _again(self, facts: CallFacts, ended: Ended) -> tuple[int, ...]:
        """The calls that ran the last reduction of these items already."""
        if not facts.call.again:
            return ()
        last = ended.strand.reductions[-1].node if ended.strand.reductions else -1
        ends = {last if last >= 0 else ended.node}
        return tuple(
            dict.fromkeys(order for node, order in facts.call.again if facts.leads(node, ends))
        )

    def _replica(self, facts: CallFacts, ended: Ended) -> int | None:
        places = [ended.node, *(r.node for r in ended.strand.reductions[::-1] if r.node >= 0)]
        known = (self._network.replica(facts, node) for node in places)
        return next((replica for replica in known if replica is not None), None)

    def _replicas(self, buffer: int, entry: Entry) -> int:
        """How many copies of the model sent something to the buffer."""
        if entry.call is None or not self._network.has_copies:
            return 1
        facts = self.archive.call(entry.call)
        stack, seen = [facts.writers[self.holdings.leaf(buffer)]], set[int]()
        copies: set[int] = set()
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                replica = self._network.replica(facts, node)
                copies |= {replica} if replica is not None else set()
                stack += [sent.edge.sender for sent in facts.arriving.get(node, ())]
        return max(len(copies), 1)

    def _samples_of(self, facts: CallFacts, site: tuple[int, int], ended: Ended) -> Samples | None:
        if site not in self._samples:
            edges = facts.structure.edges
            below = sorted({edges[number].receiver for number in ended.edges})
            picks = any(
                isinstance(facts.effect(sent), ScatterAdds | Selects)
                for sent in facts.leaving.get(ended.node, ())
            )
            batch = batch_below(facts, below) if below and not picks else None
            self._samples[site] = _samples(ended, batch)
        return self._samples[site]


def _is_of_gradients(trace: Trace, exchange: Exchange) -> bool:
    """Whether what was exchanged are gradients of buffers: by a hook, not by a collective."""
    return any(p.content == "gradient" for p in trace.layout(exchange.layout).pieces)


def _term(facts: CallFacts, ended: Ended) -> Term:
    line = ended.line(facts)
    reductions = ended.strand.reductions
    if not reductions:
        return Term(facts.call.source, "", line)
    last = reductions[-1]
    return Term(last.source, last.name if last.node >= 0 else "", line)


def _once_each(rows: list[Row]) -> list[Row]:
    """Of a site whose gradient came in parts (a checkpoint's own call, and the rest) one row."""
    found: dict[tuple[int | None, int, int], Row] = {}
    for row in rows:
        place = (row.rank, row.call, row.site)
        known = found.setdefault(place, row)
        if known is not row and not is_same(known.weight, row.weight):
            why = known.unknown or row.unknown or "parts of its gradient were scaled differently"
            found[place] = replace(known, weight=None, unknown=why)
    return list(found.values())


def _alike_in_sign(rows: list[Row]) -> list[Row]:
    """Of one loss either all items have their sign turned, or it is a part of their weight.

    `total = 0; total = total - item` in a loop turns the first item and subtracts the others.
    """
    turned: dict[Term, set[bool]] = {}
    for row in rows:
        turned.setdefault(row.term, set()).add(row.is_turned)
    return [_with_sign(row) if len(turned[row.term]) > 1 else row for row in rows]


def _with_sign(row: Row) -> Row:
    inside = tuple(factor for factor in row.inside if factor.kind != "sign")
    signs = tuple(factor for factor in row.inside if factor.kind == "sign")
    if not row.is_turned:
        return replace(row, inside=inside)
    found = row.flipped()
    return replace(found, inside=inside, loss=(*row.loss, signs[0]), own=row.own)


def _place_of(row: Row) -> tuple[int, int, int, int]:
    return (row.rank or 0, row.number, row.replica or 0, row.site)


def _factor(change: Change, part: Tensor | None) -> Factor:
    dtype = "" if part is None else part.form.dtype
    rough = change.is_measured and is_rough(change.factor, dtype)
    words, source = change.words, change.source
    return Factor(change.kind, change.factor, words, source, change.is_measured, rough)


def _unknown(factors: Iterable[Factor]) -> str:
    """Why the product of these is not known, "" if it is."""
    words = next((factor.words for factor in factors if factor.value is None), "")
    return words if not words or "not by a factor" in words else f"{words}: not by a factor"


def _spread(ended: Ended, counted: Exact | None) -> tuple[float | None, float | None]:
    """The least and largest weight of the items of a weighted loss, where they were kept."""
    strand, measured = ended.strand, ended.measured
    if strand.spread is not None:
        uneven = strand.spread.times(counted)
        return (None, None) if uneven is None else (uneven.least, uneven.largest)
    reduction = strand.reductions[-1] if strand.reductions else None
    if reduction is None or reduction.kind != "weighted-mean" or measured is None:
        return None, None
    if counted is None or measured.nonfinite:
        return None, None
    scale = abs(float(counted))
    sizes = [abs(v) for v in measured.values or () if v]
    return (min(sizes) * scale if sizes else None), measured.largest * scale


def _own(strand: Strand, counted: Exact | None) -> Spread | None:
    """The weights with the items' own multipliers, if there are any."""
    kinds = {factor.kind for factor in strand.since}
    if "own" not in kinds or not kinds <= {*OF_ITEMS, "scale"} or strand.varied is None:
        return None
    return strand.varied.times(counted)


def _samples(ended: Ended, batch: int | None) -> Samples | None:
    """The samples of a site, if its items have the batch as their first dimension."""
    strand = ended.strand
    if batch is None or not strand.reductions or strand.weight is None or strand.masked:
        return None
    if strand.spread is not None:
        return None
    shape = strand.reductions[-1].sent
    if not shape or shape[0] != batch or strand.live != math.prod(shape) or batch < 1:
        return None
    each = strand.live // batch
    if each == 1:
        return Samples(batch, 1, "", strand.weight)
    kinds: set[str] = set()
    for reduction in strand.reductions:
        is_inside = bool(reduction.received) and reduction.received[0] == batch
        within = reduction.over if is_inside else math.prod(reduction.sent[1:])
        if within > 1:
            kinds.add("sum" if reduction.kind == "sum" else "mean")
    if len(kinds) != 1:
        return None
    inside = kinds.pop()
    weight = strand.weight * each if inside == "mean" else strand.weight
    return Samples(batch, each, inside, weight)


def steps_of(trace: Trace, buffer: int) -> list[Step]:
    """The steps that could have consumed the buffer."""
    found = _taken.get(trace)
    if found is None:
        found = _taken[trace] = {}
        for step in trace.steps:
            for held in {b for group in step.groups for b in group.get("buffers", ())}:
                found.setdefault(held, []).append(step)
    return found.get(buffer, [])


_taken: WeakKeyDictionary[Trace, dict[int, list[Step]]] = WeakKeyDictionary()
"""The steps by buffer: a run has thousands of them, and many buffers."""
