"""What a gradient passed from the root to its items: factors, reductions, and strands of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.exact import is_same, product, said
from tracer.events import Measurement, Shape
from tracer.semantics.effects import Exact

__all__ = ["Ended", "Factor", "Reduction", "Strand", "joined", "merged"]


@dataclass(frozen=True)
class Factor:
    """One multiplication that a gradient passes, None where it is no single number.

    `kind` is "reduction", "scale", "start", "hook", "measured", "paths", "function" (of the user's,
    that multiplies all elements by one number), "opaque" (told, not counted), or the kind of an
    edit of a buffer. `is_measured` tells a ratio of two gradients from a number that a rule knows;
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
    """A gradient of one weight for each of its `live` elements.

    `weight`, `factors` and `reductions` are settled: what it passed up to the last reduction and
    the scalings by constants after it. `now` is the weight with what it passed since, in `since`,
    which counts only if another reduction follows; None where elements differ.
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

    def scaled(self, factor: Factor) -> Strand:
        now = product((self.now, factor.value))
        if self.since:
            return replace(self, now=now, since=(*self.since, factor))
        return replace(self, now=now, weight=now, factors=(*self.factors, factor))

    def passed(self, now: Exact | None, factor: Factor) -> Strand:
        """Through a function of one number: counts if a reduction follows."""
        return replace(self, now=now, since=(*self.since, factor))

    def reduced(self, value: Exact | None, live: int, reduction: Reduction) -> Strand:
        """Through a reduction that multiplies by `value`: all it passed before counts now."""
        now = product((self.now, value))
        factor = Factor("reduction", value, reduction.words, reduction.source)
        return replace(
            self, weight=now, now=now, live=live, since=(), masked=0,
            factors=(*self.factors, *self.since, factor),
            reductions=(*self.reductions, reduction),
        )  # fmt: skip


@dataclass
class Ended:
    """A strand that came to its items, and the edges along which the gradient goes on."""

    strand: Strand
    node: int
    edges: set[int] = field(default_factory=set)
    measured: Measurement | None = None
    """What was sent on, where it tells more of the items (a weighted loss)."""


def merged(strands: list[Strand], elements: int) -> list[Strand]:
    """Strands that differ in nothing as one: parts put together, wholes added."""
    found: dict[object, list[Strand]] = {}
    for strand in strands:
        path = tuple((r.node, r.over) for r in strand.reductions)
        is_full = strand.live == elements
        key = (path, is_full, strand.unknown) if is_full else (strand.reductions, strand.now,
               strand.weight, strand.factors, strand.since)  # fmt: skip
        found.setdefault(key, []).append(strand)
    return [_sum_of(group, elements) for group in found.values()]


def _sum_of(group: list[Strand], elements: int) -> Strand:
    first = group[0]
    if len(group) == 1:
        return first
    if first.live != elements:
        return replace(first, live=sum(strand.live for strand in group))
    known = [strand.now for strand in group if strand.now is not None]
    now = sum(known, Fraction(0)) if len(known) == len(group) else None
    shared = _common([strand.factors for strand in group])
    before = product(factor.value for factor in shared)
    value = product((now, Fraction(1) / before)) if now is not None and before else None
    factor = Factor("paths", value, f"{len(group)} paths added")
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
        lines = [facts.node(one.node).source for one in group]
        is_told_apart = len(set(lines)) == len(lines)
        alike: dict[object, Ended] = {}
        for one in group:
            strand = one.strand if is_told_apart else _at_reduction(one.strand)
            key = (strand.weight, strand.factors, strand.unknown)
            known = alike.setdefault(key, Ended(strand, one.node, set(), one.measured))
            known.edges |= one.edges
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
