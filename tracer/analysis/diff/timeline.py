"""The gradients that two runs consumed, moment by moment, and how they relate at each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tracer.analysis.diff.partners import Partnership
from tracer.analysis.diff.relation import (
    INCOMPARABLE,
    NEAR,
    Cluster,
    Cosine,
    Relation,
    clusters_of,
    joint_cosine,
    related,
)
from tracer.analysis.diff.sides import Moment, Side
from tracer.analysis.exact import is_same
from tracer.semantics.effects import Exact

__all__ = ["Comparison", "Match", "timeline"]

FAINT = 1e-3
"""Rounding that is less than this part of a gradient does not explain how it differs."""


@dataclass(frozen=True)
class Match:
    """One parameter at one moment of both runs."""

    pair: Partnership
    a: Moment
    b: Moment
    relation: Relation


@dataclass(frozen=True)
class Comparison:
    """Every parameter that was consumed at one moment of A and one of B.

    `numbers` are those of the steps (or of the fillings, of runs without steps).
    """

    numbers: tuple[int, int]
    is_step: bool
    matches: tuple[Match, ...]

    def of_kind(self, *kinds: str) -> list[Match]:
        return [match for match in self.matches if match.relation.kind in kinds]

    @property
    def is_unmeasured(self) -> bool:
        """Whether there are gradients, and none that was measured in both."""
        kinds = {match.relation.kind for match in self.matches}
        return "unknown" in kinds <= {"unknown", "absent", "absent-a", "absent-b"}

    @property
    def clusters(self) -> list[Cluster]:
        """Groups of parameters that share a factor; their members count in `matches`."""
        return clusters_of([match.relation for match in self.matches])

    @property
    def compared(self) -> list[Match]:
        """Those that have something to compare."""
        return [m for m in self.matches if m.relation.kind not in INCOMPARABLE]

    @property
    def is_proportional(self) -> bool:
        """Whether one factor holds for all that can be compared."""
        return all(m.relation.kind == "multiple" for m in self.compared) and len(self.clusters) < 2

    @property
    def is_proportional_where_both(self) -> bool:
        """The same of the parameters that get a gradient in both runs."""
        kinds = {m.relation.kind for m in self.compared} - {"absent-a", "absent-b"}
        return kinds <= {"multiple"} and len(self.clusters) < 2

    @property
    def is_cut(self) -> bool:
        """Whether a parameter that one run trains is not reached in the other, or not held."""
        return bool(self.of_kind("absent-a", "absent-b"))

    @property
    def is_same(self) -> bool:
        """Of what was measured; where nothing was, nothing is known to be the same."""
        is_measured = bool(self.compared) or not self.of_kind("unknown")
        return (
            is_measured
            and self.is_proportional
            and all(cluster.is_same for cluster in self.clusters)
        )

    @property
    def cosine(self) -> Cosine | None:
        """Of all gradients laid end to end."""
        return joint_cosine([match.relation for match in self.matches])

    def is_like(self, other: Comparison) -> bool:
        """Whether the two runs relate in the same way here and there."""
        return _signature(self) == _signature(other)


def _signature(comparison: Comparison) -> object:
    factors = tuple(float(f"{float(c.factor):.4g}") for c in comparison.clusters[:8])
    kinds = {m.relation.kind for m in comparison.compared} - {"multiple"}
    return factors, tuple(sorted(kinds))


def timeline(a: Side, b: Side, pairs: Sequence[Partnership]) -> list[Comparison]:
    """Every moment that both runs have, in order."""
    found: dict[tuple[int, int], list[Match]] = {}
    for pair in pairs:
        for match in _Followed(a, b, pair).matches():
            numbers = (match.a.number, match.b.number)
            found.setdefault(numbers, []).append(match)
    for pair in pairs:
        _add_unheld(a, b, pair, found)
    return [
        Comparison(numbers, matches[0].a.step is not None, tuple(_settled(matches)))
        for numbers, matches in sorted(found.items())
    ]


def _add_unheld(
    a: Side, b: Side, pair: Partnership, found: dict[tuple[int, int], list[Match]]
) -> None:
    """A parameter that the steps of one run take and those of the other never do."""
    taken = a.moments(pair.a), b.moments(pair.b)
    if bool(taken[0]) == bool(taken[1]):
        return
    kind = "absent-b" if taken[0] else "absent-a"
    numbered = {moment.number: moment for moment in taken[0] or taken[1]}
    for numbers, matches in found.items():
        own = numbered.get(numbers[0] if taken[0] else numbers[1])
        if own is None or own.step is None:
            continue
        pseudo = replace(matches[0].b if taken[0] else matches[0].a, is_held=False)
        one, other = (own, pseudo) if taken[0] else (pseudo, own)
        side, buffer = (a, pair.a) if taken[0] else (b, pair.b)
        if side.content(buffer, own) is not None:
            matches.append(Match(pair, one, other, Relation(kind)))


def _settled(matches: Sequence[Match]) -> list[Match]:
    """A gradient of one element is a multiple of any other: it goes with the larger ones.

    So does one that is near to a multiple, where others differ wholly: of few elements some are.
    """
    larger = [m.relation for m in matches if m.relation.elements > 1]
    factors = [cluster.factor for cluster in clusters_of(larger)]
    if not any(r.kind in ("multiple", "near", "different") for r in larger):
        return list(matches)
    differs = any(relation.kind == "different" for relation in larger)
    return [
        replace(match, relation=replace(match.relation, kind="different"))
        if _is_alone(match.relation, factors) or (differs and match.relation.kind == "near")
        else match
        for match in matches
    ]


def _is_alone(relation: Relation, factors: Sequence[Exact]) -> bool:
    """Whether it is one element whose factor no larger gradient has."""
    return (
        relation.elements == 1
        and relation.kind == "multiple"
        and not any(is_same(relation.factor, f, 4 * relation.tolerance) for f in factors)
    )


def _aligned(a: Sequence[Moment], b: Sequence[Moment]) -> Iterable[tuple[Moment, Moment]]:
    """By the number of the step; one by one where the numbers do not meet."""
    if len(a) == 1 or len(b) == 1:
        return zip(a, b, strict=False)
    numbered = {moment.number: moment for moment in b}
    shared = [(moment, numbered[moment.number]) for moment in a if moment.number in numbered]
    if 2 * len(shared) >= min(len(a), len(b)):
        return shared
    return zip(a, b, strict=False)


class _Followed:
    """One parameter through both runs."""

    def __init__(self, a: Side, b: Side, pair: Partnership) -> None:
        self._a, self._b, self._pair = a, b, pair
        self._may_cancel = True

    def matches(self) -> Iterator[Match]:
        aligned = _aligned(self._a.moments(self._pair.a), self._b.moments(self._pair.b))
        for steps, (one, other) in enumerate(aligned, start=1):
            yield Match(self._pair, one, other, self._relation(one, other, steps))

    def _relation(self, one: Moment, other: Moment, steps: int) -> Relation:
        """Each step adds its own rounding to the weights, and so to the gradients of the next."""
        left, right = self._a.content(self._pair.a, one), self._b.content(self._pair.b, other)
        if left is None or right is None:
            kinds = {(True, True): "absent", (True, False): "absent-a", (False, True): "absent-b"}
            return Relation(kinds[left is None, right is None])
        tolerance = max(
            self._a.tolerance(self._pair.a, one), self._b.tolerance(self._pair.b, other)
        )
        tolerance = max(tolerance, min(steps * tolerance, NEAR))
        found = related(left.measured, right.measured, tolerance)
        if found.kind not in ("near", "different") or not self._may_cancel:
            return found
        noise = (self._a.noise(self._pair.a, one), self._b.noise(self._pair.b, other))
        # What was far above its rounding once is no sum that cancels: looked at once, that is all.
        self._may_cancel = any(n > FAINT * norm for n, norm in zip(noise, found.norms, strict=True))
        return related(left.measured, right.measured, tolerance, noise)
