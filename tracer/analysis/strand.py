"""What a gradient passed from the root to its items: factors, reductions, and strands of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.exact import is_same, product, said, tidy
from tracer.events import Measurement, Shape
from tracer.semantics.effects import Exact

__all__ = [
    "NOT_MEASURED",
    "OF_ITEMS",
    "Ended",
    "Factor",
    "Reduction",
    "Scaling",
    "Spread",
    "Strand",
    "is_off",
    "joined",
    "merged",
    "spread_of",
    "summed",
]

OF_ITEMS = ("own", "sign")
"""What belongs to an item if no reduction follows: its own multiplier, its sign."""

MOST_FACTORS = 256
"""Factors of a strand that are told one by one."""

FURTHER = "all further factors"

NOT_MEASURED = "its items weigh differently, and how much was not measured"


@dataclass(frozen=True)
class Spread:
    """The weights of items that differ.

    `least` and `largest` are the extremes with their signs; where `least` is None only the largest
    magnitude is known. `total` is that of all items together, `count` how many are not zero, None
    where that was not counted.
    """

    least: float | None
    largest: float
    total: float
    count: int | None = None

    def times(self, factor: Exact | None) -> Spread | None:
        if factor is None:
            return None
        by = float(factor)
        if self.least is None:
            return replace(self, largest=abs(by) * self.largest, total=by * self.total)
        ends = sorted((by * self.least, by * self.largest))
        return replace(self, least=ends[0], largest=ends[1], total=by * self.total)

    def repeated(self, times: int) -> Spread:
        count = None if self.count is None else self.count * times
        return replace(self, total=self.total * times, count=count)


def spread_of(measured: Measurement | None) -> Spread | None:
    """The weights that a measured gradient consists of; zeros are items that were left out."""
    if measured is None or measured.nonfinite or isinstance(measured.sum, complex):
        return None
    if measured.values is None:
        return Spread(None, measured.largest, measured.sum)
    values = [value for value in measured.values if not isinstance(value, complex) and value]
    if not values:
        return None
    return Spread(min(values), max(values), sum(values), len(values))


@dataclass(frozen=True)
class Factor:
    """One multiplication that a gradient passes, None where it is no single number.

    `kind` is "reduction", "scale", "sign" (turned), "own" (each item has its own multiplier: the
    value is the average one), "start", "hook", "measured", "paths", "function" (of the user's, that
    multiplies all elements by one number), "opaque" (told, not counted), or the kind of an edit of
    a buffer. `is_measured` tells a ratio of two gradients from a number that a rule knows;
    `is_rough` one that was measured in half precision and is known to two digits or three.
    """

    kind: str
    value: Exact | None
    words: str
    source: int | None = None
    is_measured: bool = False
    is_rough: bool = False

    @property
    def text(self) -> str:
        """x 1/8; x about 0.37; ? where it is no factor."""
        if self.value is None:
            return "?"
        return f"x about {float(self.value):.2g}" if self.is_rough else f"x {said(self.value)}"


@dataclass(frozen=True)
class Reduction:
    """A node (or a root, -1) that made few numbers of many; outermost first on a strand."""

    kind: str
    over: int
    node: int
    name: str
    received: Shape
    sent: Shape
    source: int | None
    words: str
    called: str = ""
    denominator: Exact | None = None


@dataclass(frozen=True)
class Strand:
    """A gradient of known weight for each of its `live` elements.

    `weight`, `factors` and `reductions` are settled: what it passed up to the last reduction and
    the scalings by constants after it. `now` is the weight with what it passed since, in `since`,
    which counts only if another reduction follows; None where elements differ. Then `varied` has
    their weights, and once a reduction settled it `spread` those of the items, of which `weight`
    is the average.
    """

    weight: Exact | None
    now: Exact | None
    live: int
    factors: tuple[Factor, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    since: tuple[Factor, ...] = ()
    masked: int = 0
    part: tuple[tuple[int, int], ...] = ()
    """Of a whole that was put together (cat, stack, gather): node and output, of each in turn."""
    unknown: str = ""
    varied: Spread | None = None
    spread: Spread | None = None
    made: str = ""
    """Of a single value that is no sum of items: what it was made of ("norm of 15 elements")."""

    def scaled(self, factor: Factor) -> Strand:
        now = product((self.now, factor.value))
        varied = self.varied.times(factor.value) if self.varied else None
        if any(passed.kind not in OF_ITEMS for passed in self.since):
            return replace(self, now=now, varied=varied, since=_longer(self.since, factor))
        return replace(
            self, now=now, weight=product((self.weight, factor.value)), varied=varied,
            spread=self.spread.times(factor.value) if self.spread else None,
            factors=_longer(self.factors, factor),
        )  # fmt: skip

    def passed(self, now: Exact | None, factor: Factor, varied: Spread | None = None) -> Strand:
        """Through what belongs to the item: counts if a reduction follows."""
        return replace(self, now=now, varied=varied, since=(*self.since, factor))

    def reduced(self, value: Exact | None, over: int, reduction: Reduction) -> Strand:
        """Through a reduction that multiplies by `value`: all it passed before counts now."""
        now = product((self.now, value))
        varied = self.varied.times(value) if self.varied else None
        varied = varied.repeated(over) if varied else None
        live = self.live * over
        factor = Factor("reduction", value, reduction.words, reduction.source)
        found = replace(
            self, weight=now, now=now, live=live, since=(), masked=0, varied=varied, spread=varied,
            made="",
            factors=(*self.factors, *self.since, factor),
            reductions=(*self.reductions, reduction),
        )  # fmt: skip
        return found.averaged() if now is None else found

    def settled(self) -> Strand:
        """With all that belongs to its items as a part of their weights."""
        if any(factor.kind not in (*OF_ITEMS, "scale") for factor in self.since):
            return self
        found = replace(
            self, since=(), factors=(*self.factors, *self.since), spread=self.varied,
            weight=self.now,
        )  # fmt: skip
        return found.averaged() if self.now is None else found

    def picked(self, now: Exact | None, varied: Spread | None, live: int) -> Strand:
        """With a part of its elements only, whose weights are these."""
        found = replace(self, now=now, varied=varied, live=live)
        before, after = self.average, found.average
        ratio = after / before if before and after is not None else None
        kinds = {factor.kind for factor in self.since}
        if self.spread is None or not kinds <= {"sign"}:
            return replace(found, since=_corrected(self.since, ratio))
        turned = Fraction(-1) ** len(self.since)
        found = replace(found, factors=_corrected(self.factors, ratio))
        if now is not None:
            return replace(found, spread=None, weight=now * turned)
        return replace(found, spread=varied.times(turned) if varied else None).averaged()

    @property
    def average(self) -> Exact | None:
        """What an element weighs on average, with all that it passed."""
        if self.now is not None or self.varied is None or self.live < 1:
            return self.now
        return tidy(self.varied.total / self.live, 2e-6)

    def averaged(self) -> Strand:
        """With the average of its items as their weight, if that is known."""
        if self.spread is None or self.live < 1:
            return replace(self, unknown=self.unknown or NOT_MEASURED)
        return replace(self, weight=tidy(self.spread.total / self.live, 2e-6))


class Scaling:
    """A strand that is scaled a million times: what `Strand.scaled` makes of it, at the end.

    Once its factors are told as one, a factor more changes nothing but three numbers.
    """

    def __init__(self, strand: Strand) -> None:
        self._strand = strand
        self._is_inside = any(passed.kind not in OF_ITEMS for passed in strand.since)
        self.live = strand.live
        self.unknown = strand.unknown
        self._start()

    def _start(self) -> None:
        strand = self._strand
        factors = strand.since if self._is_inside else strand.factors
        is_folded = len(factors) > MOST_FACTORS and factors[-1].kind == "scale"
        self._last = factors[-1] if is_folded else None
        self._now, self._weight = strand.now, strand.weight
        self._further = None if self._last is None else self._last.value

    def by(self, factor: Factor) -> None:
        """Through a multiplication more."""
        if self._last is None:
            self._strand = self._strand.scaled(factor)
            self._start()
            return
        value = factor.value
        self._now = product((self._now, value))
        self._weight = self._weight if self._is_inside else product((self._weight, value))
        self._further = product((self._further, value))

    @property
    def now(self) -> float:
        """What an element weighs."""
        assert self._now is not None
        return float(self._now)

    @property
    def strand(self) -> Strand:
        if self._last is None:
            return self._strand
        last = replace(self._last, value=self._further, words=FURTHER, source=None)
        strand = replace(self._strand, now=self._now, weight=self._weight)
        if self._is_inside:
            return replace(strand, since=(*strand.since[:-1], last))
        return replace(strand, factors=(*strand.factors[:-1], last))


def is_off(now: float, live: int, elements: int, total: float, norm: float, near: float) -> bool:
    """Whether a measured gradient of so many elements is not that of one strand."""
    if abs(now * live - total) > near * (abs(now) * live):
        return True
    # Of parts put together: whether they are different ones.
    return live != elements and abs(now**2 * live - norm**2) > 4 * near * (now**2 * live)


@dataclass
class Ended:
    """A strand that came to its items, and the edges along which the gradient goes on."""

    strand: Strand
    node: int
    edges: set[int] = field(default_factory=set)
    measured: Measurement | None = None
    """What was sent on, where it tells more of the items (a weighted loss)."""

    def line(self, facts: CallFacts) -> int | None:
        """Where the items were made: multiplied with numbers of their own, or else computed."""
        own = next((f.source for f in self.strand.since if f.kind == "own"), None)
        return facts.node(self.node).source if own is None else own


def _longer(factors: tuple[Factor, ...], factor: Factor) -> tuple[Factor, ...]:
    """The factors with a scaling more; a loop's, beyond a number that is ever read, as one."""
    last = factors[-1] if len(factors) > MOST_FACTORS else factor
    if last is factor or last.kind != "scale":
        return (*factors, factor)
    both = replace(last, value=product((last.value, factor.value)), words=FURTHER, source=None)
    return (*factors[:-1], both)


def _corrected(factors: tuple[Factor, ...], ratio: Exact | None) -> tuple[Factor, ...]:
    """Factors of which the last one that was an average is that of a part now."""
    for place in range(len(factors) - 1, -1, -1):
        factor = factors[place]
        if factor.kind in ("own", "measured", "paths", "start"):
            value = product((factor.value, ratio))
            return (*factors[:place], replace(factor, value=value), *factors[place + 1 :])
    return factors


def merged(strands: list[Strand], elements: int) -> list[Strand]:
    """Strands that differ in nothing as one: parts put together, wholes added."""
    found: dict[object, list[Strand]] = {}
    for strand in strands:
        path = tuple((r.node, r.over) for r in strand.reductions)
        is_full = strand.live == elements
        key = (path, is_full, strand.unknown) if is_full else (strand.reductions, strand.now,
               strand.weight, strand.factors, strand.since,
               len(found) if strand.now is None else 0)  # fmt: skip
        found.setdefault(key, []).append(strand)
    return [_sum_of(group, elements) for group in found.values()]


def _sum_of(group: list[Strand], elements: int) -> Strand:
    first = group[0]
    if len(group) == 1:
        return first
    if first.live != elements:
        return replace(first, live=sum(strand.live for strand in group))
    return summed(group)


def summed(group: list[Strand]) -> Strand:
    """Strands of the same elements as one."""
    first = group[0]
    known = [strand.now for strand in group if strand.now is not None]
    now = sum(known, Fraction(0)) if len(known) == len(group) else None
    shared = _common([strand.factors for strand in group])
    before = product(factor.value for factor in shared)
    value = product((now, Fraction(1) / before)) if now is not None and before else None
    factor = Factor("paths", value, f"{len(group)} paths added")
    is_function = any(f.kind not in (*OF_ITEMS, "scale") for s in group for f in s.since)
    if is_function and len({(s.weight, s.factors) for s in group}) == 1:
        # Ways through functions of one value: its weight stays what it is.
        passed = product((now, 1 / first.weight)) if first.weight else None
        factor = Factor("measured", passed, f"{len(group)} paths added", None, True)
        return replace(first, now=now, varied=None, since=(factor,))
    if now is None:
        # What they come to is measured where they meet.
        return replace(
            first, weight=None, now=None, factors=(*shared, factor), since=(), varied=None,
            spread=None,
        )  # fmt: skip
    return replace(first, now=now, weight=now, factors=(*shared, factor), since=())


def _common(sequences: list[tuple[Factor, ...]]) -> tuple[Factor, ...]:
    length = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return sequences[0][:length]


def joined(ended: list[Ended], facts: CallFacts) -> list[Ended]:
    """Branches below the same reduction are one site, unless each has its own line and factors.

    `(a + c).mean()` has one kind of item; `(l1 + 0.5 * l2).mean()` has two.
    """
    groups: dict[object, list[Ended]] = {}
    for one in ended:
        path = tuple((r.node, r.over) for r in one.strand.reductions)
        place = (path, one.strand.part, one.strand.live, one.strand.masked)
        groups.setdefault(place, []).append(one)
    found: list[Ended] = []
    for group in groups.values():
        lines = [one.line(facts) for one in group]
        is_told_apart = len(set(lines)) == len(lines)
        alike: dict[object, Ended] = {}
        for one in group:
            strand = one.strand if is_told_apart else _at_reduction(one.strand)
            key = (strand.weight, strand.factors, strand.unknown)
            known = alike.get(key)
            if known is None:
                known = alike[key] = Ended(strand, one.node, set(), one.measured)
            elif not strand.reductions and facts.node(one.node).name == facts.node(known.node).name:
                # A loop that adds single values: no branches of one, but as many.
                live = known.strand.live + strand.live
                known.strand = replace(known.strand, live=live)
            known.edges |= one.edges
            if known.strand.since != strand.since:
                # Of several operands: their own multipliers and signs are inside the item.
                known.strand = replace(known.strand, since=(), varied=None)
        found += alike.values()
    return found


def _at_reduction(strand: Strand) -> Strand:
    """The strand as it was right after its last reduction."""
    places = [i for i, f in enumerate(strand.factors) if f.kind == "reduction"]
    if not places:
        return strand
    factors = strand.factors[: places[-1] + 1]
    weight = product(factor.value for factor in factors)
    same = is_same(weight, strand.weight)
    return replace(strand, factors=factors, weight=strand.weight if same else weight)
