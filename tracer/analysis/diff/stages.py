"""Two ledgers side by side, stage by stage from the loss to the optimizer: where they part.

Every stage multiplies what one item weighs. Where both losses are means, "one item" would make a
batch of 16 differ from four of 4 although both are means; so of two means the items count as one,
and each further mean that is added to it as one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tracer.analysis.diff.losses import paired
from tracer.analysis.exact import is_same, product, said, tidy
from tracer.analysis.ledger import Ledger, Row
from tracer.analysis.rankaxis import rank_factor, world_of
from tracer.analysis.strand import Factor
from tracer.analysis.verdicts import TermVerdict, Verdict, reduction_word
from tracer.semantics.effects import Exact
from tracer.tracefile import Trace

__all__ = ["Cell", "Parting", "Stage", "Weighing", "is_uneven", "partings"]

ONE = Fraction(1)
MOST_FACTORS = 4
KINDS = ("hook", "measured", "paths", "unscale", "clip_grad_norm", "clip_grad_value", "edit")
"""What happens to a gradient behind its loss, in the order in which it usually does."""


@dataclass(frozen=True)
class Cell:
    """What a stage is on one side: in words, its factor there, and the line.

    `between` has the two lines that a change nobody announced lies between, `others` further lines
    that have a part in it.
    """

    words: str
    factor: Exact | None = ONE
    source: int | None = None
    between: tuple[int | None, int | None] | None = None
    others: tuple[int, ...] = ()

    @property
    def is_there(self) -> bool:
        return bool(self.words)


NOTHING = Cell("")


@dataclass(frozen=True)
class Stage:
    """One stage on both sides. `ratio` is that of B over A, None where one is not known."""

    name: str
    a: Cell
    b: Cell
    ratio: Exact | None

    @property
    def parts(self) -> bool:
        return self.ratio is None or not is_same(self.ratio, ONE)


@dataclass(frozen=True)
class Weighing:
    """Items of one reduction, and what they weigh in A and in B. `ratio` is B over A.

    `call` and `rank` are those of the side whose items do not weigh the same.
    """

    call: int
    items: int
    a: Exact
    b: Exact
    rank: int | None = None

    @property
    def ratio(self) -> Exact:
        return self.b / self.a


@dataclass(frozen=True)
class Parting:
    """One loss of both runs, stage by stage.

    `ratio` is the product of all stages: what the ledgers say that B is of A. `weighings` are there
    where the items of a run do not weigh the same. `unknown` says why no ratio is known. `spreads`
    says what items weigh in A and in B where those of one reduction differ, not alike in both.
    `unknown_at` has the line that `unknown` speaks of, in A or in B.
    """

    stages: tuple[Stage, ...]
    a: TermVerdict
    b: TermVerdict
    ratio: Exact | None
    weighings: tuple[Weighing, ...] = ()
    unknown: str = ""
    spreads: tuple[str, str] | None = None
    unknown_at: tuple[int | None, int | None] = (None, None)

    @property
    def is_unequal(self) -> bool:
        """Whether items weigh differently against one another in the two runs."""
        return bool(self.weighings) or self.spreads is not None

    @property
    def leftovers(self) -> tuple[bool, bool]:
        """Whether A, and B, add what an earlier step has used already."""
        a, b = (any(row.is_repeated for row in term.rows) for term in (self.a, self.b))
        return a, b

    @property
    def first(self) -> Stage | None:
        """The first stage at which the two part."""
        return next((stage for stage in self.stages if stage.parts), None)

    @property
    def parted(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.parts]


def partings(
    a: Verdict,
    b: Verdict,
    ledgers: tuple[Ledger, Ledger],
    traces: tuple[Trace, Trace],
    *,
    is_multiple: bool,
) -> list[Parting]:
    """Each loss of A beside its like in B; losses that only one has are left out.

    `is_multiple` says that one gradient is, or nearly is, a multiple of the other. Where it is not,
    items of one more step, or of other weights, are no factor.
    """
    found = [_parting(one, other, ledgers) for one, other in paired(a.terms, b.terms, traces)]
    return found if is_multiple else [_without_factors(parting) for parting in found]


def _parting(a: TermVerdict, b: TermVerdict, ledgers: tuple[Ledger, Ledger]) -> Parting:
    unknown = a.unknown or b.unknown
    if unknown:
        side = "A" if a.unknown else "B"
        words = f"the weights in {side} are not known ({unknown})"
        at = (_unknown_at(a), None) if a.unknown else (None, _unknown_at(b))
        return Parting((), a, b, None, (), words, unknown_at=at)
    weighings = tuple(_weighings(a.rows, b.rows))
    left, right = _Term(a.rows, ledgers[0]), _Term(b.rows, ledgers[1])
    both_mean = left.is_mean and right.is_mean
    stages = [
        _stage("items", left.items(both_mean), right.items(both_mean)),
        _stage("in the loss", left.scale(), right.scale()),
        _stage("replicas", left.replicas(both_mean), right.replicas(both_mean)),
        _stage("backward calls", left.calls(both_mean), right.calls(both_mean)),
        _stage("ranks", left.ranks(both_mean), right.ranks(both_mean)),
        *_afterwards(left, right),
    ]
    shown = tuple(stage for stage in stages if stage.a.is_there or stage.b.is_there)
    ratio = product(stage.ratio for stage in shown)
    return Parting(shown, a, b, None if weighings else ratio, weighings)


def _unknown_at(term: TermVerdict) -> int | None:
    """The line of what is no factor, if that is the reason."""
    factors = [f for row in term.rows for f in (*row.loss, *row.after) if f.value is None]
    return factors[0].source if factors else None


def _without_factors(parting: Parting) -> Parting:
    """Without those that gradients in different directions cannot have."""
    unknown = set()
    if parting.leftovers[0] != parting.leftovers[1]:
        unknown.add("backward calls")
    spreads = None if parting.unknown or parting.weighings else _spreads(parting.a, parting.b)
    if spreads is not None:
        unknown |= {"items", "in the loss"}
    stages = tuple(
        replace(stage, ratio=None) if stage.name in unknown and stage.parts else stage
        for stage in parting.stages
    )
    ratio = None if any(stage.ratio is None for stage in stages) else parting.ratio
    return replace(parting, stages=stages, ratio=ratio, spreads=spreads)


def _spreads(a: TermVerdict, b: TermVerdict) -> tuple[str, str] | None:
    """What items weigh in both, unless they differ from one another alike, or it is not known."""
    if not any(is_uneven(row) for row in (*a.rows, *b.rows)):
        return None
    one, other = _ends(a.rows), _ends(b.rows)
    if all(any(is_uneven(row) for row in term.rows) for term in (a, b)):
        quotients = _quotient(one), _quotient(other)
        if None in quotients or is_same(*quotients, 1e-4):
            return None
    return _from_to(*one), _from_to(*other)


def is_uneven(row: Row) -> bool:
    """Whether the items of one reduction weigh differently, by numbers or weights of their own."""
    is_weighted = bool(row.reductions) and row.reductions[-1].kind == "weighted-mean"
    return row.is_uneven or row.own is not None or is_weighted


def _ends(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """The least and the largest weight of an item; None where that is not known."""
    least: list[float | None] = []
    largest: list[float | None] = []
    for row in rows:
        weight = None if row.weight is None or is_uneven(row) else float(row.weight)
        spread = row if row.own is None else row.own
        least.append(weight if spread.least is None else spread.least)
        largest.append(weight if spread.largest is None else spread.largest)
    low, high = ([x for x in ends if x is not None] for ends in (least, largest))
    return (
        min(low) if len(low) == len(rows) else None,
        max(high) if len(high) == len(rows) else None,
    )


def _quotient(ends: tuple[float | None, float | None]) -> float | None:
    least, largest = ends
    return largest / least if least and largest is not None else None


def _from_to(least: float | None, largest: float | None) -> str:
    if largest is None:
        return "each its own weight"
    high = said(tidy(largest, 2e-6))
    if least is None:
        return f"up to {high} each"
    low = said(tidy(least, 2e-6))
    return f"{high} each" if low == high else f"{low} to {high} each"


def _stage(name: str, a: Cell, b: Cell) -> Stage:
    known = a.factor is not None and b.factor is not None and bool(a.factor)
    ratio = b.factor / a.factor if known and a.factor and b.factor is not None else None
    return Stage(name, a, b, ratio)


class _Term:
    """The rows of one loss, read stage by stage."""

    def __init__(self, rows: Sequence[Row], ledger: Ledger) -> None:
        self._rows = rows
        self._ledger = ledger
        self._first = rows[0]
        self._is_uniform = all(is_same(self._loss(row), self._loss(rows[0])) for row in rows)

    @staticmethod
    def _loss(row: Row) -> Exact | None:
        return product(_reductions(row))

    @property
    def word(self) -> str:
        return reduction_word(self._first) if self._first.reductions else "value"

    @property
    def is_mean(self) -> bool:
        """Whether more items in the reduction make each of them weigh less."""
        reductions = [r for r in self._first.reductions if r.over > 1]
        inner = reductions[1:] if self._over_replicas is not None else reductions
        return bool(inner or self._first.reductions) and (
            inner[0] if inner else self._first.reductions[-1]
        ).kind in ("mean", "weighted-mean")

    @property
    def _sites(self) -> list[Row]:
        """The rows of one call of one rank."""
        first = self._first
        return [r for r in self._rows if (r.call, r.rank) == (first.call, first.rank)]

    @property
    def _over_replicas(self) -> Exact | None:
        """The factor of the outermost reduction, if that is over the losses of the replicas."""
        lanes = {row.replica for row in self._sites}
        reductions, factors = self._first.reductions, _reductions(self._first)
        if len(lanes) < 2 or len(reductions) < 2 or len(factors) != len(reductions):
            return None
        return factors[0] if reductions[0].over == len(self._sites) else None

    def items(self, both_mean: bool) -> Cell:
        first = self._first
        outer = self._over_replicas
        each = product(_reductions(first)[0 if outer is None else 1 :])
        source = first.reductions[-1].source if first.reductions else first.term.source
        if not self._is_uniform:
            counts = ", ".join(str(row.items) for row in self._rows[:6])
            more = " ..." if len(self._rows) > 6 else ""
            return Cell(f"{self.word} over {counts}{more} items", None, source)
        word = self.word if outer is None else self.word.rpartition(" of ")[2].removesuffix("s")
        words = f"{word} over {_counted(first)}" if first.reductions else "a single value"
        if each is not None and self.is_mean:
            last = first.reductions[-1].kind if first.reductions else ""
            own = " x its own weight" if last == "weighted-mean" else ""
            words += f", {said(each)}{own} each"
        factor = each * _size(first) if both_mean and each is not None else each
        return Cell(words, factor, source)

    def scale(self) -> Cell:
        factors = [f for f in self._first.loss if f.kind != "reduction"]
        if not all(_scales(row) == _scales(self._first) for row in self._rows):
            return Cell("not the same in every call", None, factors[0].source if factors else None)
        value = product(f.value for f in factors)
        if not factors or value == 1:
            return NOTHING
        loud = [f for f in reversed(factors) if f.value != 1]
        lines = list(dict.fromkeys(f.source for f in loud if f.source is not None))
        words = f"x {said(value)}"
        if len(lines) > 1 and len(loud) <= MOST_FACTORS:
            words = f"{' '.join(f'x {said(f.value)}' for f in loud)} = {said(value)}"
        return Cell(words, value, lines[0] if lines else None, others=tuple(lines[1:MOST_FACTORS]))

    def replicas(self, both_mean: bool) -> Cell:
        count = self._ledger.replicas
        if count < 2:
            return NOTHING
        sites = self._sites
        lanes = {row.replica for row in sites}
        if len(lanes) < 2 or len({r.reductions[-1].node for r in sites if r.reductions}) < 2:
            return Cell(f"{count} replicas of one loss")
        outer = self._over_replicas
        each = ONE if outer is None else outer
        how = "added" if each == 1 else f"x {said(each)} each"
        source = self._first.reductions[0].source
        words = f"{len(lanes)} losses, one per replica, {how}"
        return Cell(words, each * len(lanes) if both_mean else each, source)

    def calls(self, both_mean: bool) -> Cell:
        own = [row for row in self._rows if row.rank == self._first.rank]
        count = len({row.number for row in own})
        entries = {(e.rank, e.call): e.source for e in self._ledger.history.entries}
        source = entries.get((own[-1].rank, own[-1].call))
        again = len({row.number for row in own if row.is_repeated})
        words = "one call" if count == 1 else f"{count} calls, added"
        if again:
            words += f", {again} of them used by an earlier step already"
        return Cell(words, Fraction(count) if both_mean else ONE, source)

    def ranks(self, both_mean: bool) -> Cell:
        """Together with what their exchange multiplies, or a division by their number."""
        world = world_of(self._ledger)
        if world < 2:
            return NOTHING
        values = [rank_factor(row, world) for row in self._rows]
        value, factors = values[0]
        source = next((f.source for f in factors if f.source is not None), None)
        if value is None or not all(is_same(one, value) for one, _ in values):
            return Cell(f"{world:,} ranks, not each the same", None, source)
        how = "added" if value == 1 else f"x {said(value)} each"
        return Cell(f"{world:,} ranks, {how}", value * world if both_mean else value, source)

    def _behind(self, row: Row) -> list[Factor]:
        """What came after the loss, but for the exchange between ranks."""
        world = world_of(self._ledger)
        exchanged = rank_factor(row, world)[1] if world > 1 else ()
        return [factor for factor in row.after if factor not in exchanged]

    @property
    def kinds(self) -> set[str]:
        """Of everything that happened behind the loss, but for what is told and not counted."""
        return {f.kind for row in self._rows for f in self._behind(row)} - {"opaque"}

    def after(self, kind: str) -> Cell:
        behind = [self._behind(row) for row in self._rows]
        found = list(dict.fromkeys(f for factors in behind for f in factors if f.kind == kind))
        if not found:
            return NOTHING
        everywhere = all(factor in factors for factor in found for factors in behind)
        value = product(f.value for f in found) if everywhere else None
        words = ", ".join(_told(f) for f in found[:4]) + (" ..." if len(found) > 4 else "")
        if not everywhere:
            words += ", not in every call"
        return Cell(words, value, found[0].source, self._between(found[0]))

    def _between(self, factor: Factor) -> tuple[int | None, int | None] | None:
        """The lines of the events before and after a change that nobody announced."""
        for entry in reversed(self._ledger.history.entries):
            for change in entry.changes:
                if not change.is_announced and change.words == factor.words:
                    after = self._ledger.step.source if self._ledger.step is not None else None
                    return (entry.source, after)
        return None


def _reductions(row: Row) -> list[Exact | None]:
    return [f.value for f in row.loss if f.kind == "reduction"]


def _scales(row: Row) -> list[Exact | None]:
    return [f.value for f in row.loss if f.kind != "reduction"]


def _told(factor: Factor) -> str:
    value = "no factor" if factor.value is None else f"x {said(factor.value)}"
    by = "by " if factor.kind == "hook" and factor.words[:1].isdigit() else ""
    return f"{value} {by}{factor.words}".strip()


def _size(row: Row) -> Exact:
    """What a mean divides by, times the elements that one of its items stands for."""
    last = row.reductions[-1] if row.reductions else None
    if last is not None and last.kind == "weighted-mean" and last.denominator is not None:
        return last.denominator
    return Fraction(row.items)


def _counted(row: Row) -> str:
    samples = row.samples
    if samples is not None and samples.each > 1:
        return f"{samples.count} samples of {samples.each} elements"
    return f"{row.items:,} {'item' if row.items == 1 else 'items'}"


def _afterwards(a: _Term, b: _Term) -> list[Stage]:
    kinds = [*KINDS, *sorted((a.kinds | b.kinds) - set(KINDS))]
    return [_stage("afterwards", a.after(kind), b.after(kind)) for kind in kinds]


def _weighings(a: Sequence[Row], b: Sequence[Row]) -> list[Weighing]:
    """Where a side's items weigh differently: what each weighs beside those of the other."""
    if all(is_same(row.weight, rows[0].weight) for rows in (a, b) for row in rows):
        return []
    if len(a) == len(b) and [row.items for row in a] == [row.items for row in b]:
        pairs = list(zip(a, b, strict=True))
    elif all(is_same(row.weight, a[0].weight) for row in a):
        pairs = [(a[0], row) for row in b]
    elif all(is_same(row.weight, b[0].weight) for row in b):
        pairs = [(row, b[0]) for row in a]
    else:
        return []
    found = []
    for one, other in pairs:
        if one.weight and other.weight is not None:
            row = other if len(b) >= len(a) else one
            found.append(Weighing(row.number, row.items, one.weight, other.weight, row.rank))
    return found
