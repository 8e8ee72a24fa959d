"""Two runs of one model compared, whole: what `diff` knows before anybody words it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tracer.analysis.diff.origin import Origin
from tracer.analysis.diff.origins import origins_of
from tracer.analysis.diff.partners import Partners, partners
from tracer.analysis.diff.setup import Setting, settings_of
from tracer.analysis.diff.sides import Side
from tracer.analysis.diff.stages import Parting, partings
from tracer.analysis.diff.timeline import Comparison, Match, timeline
from tracer.analysis.diff.updates import Update, updates_of
from tracer.analysis.exact import is_same
from tracer.analysis.verdicts import Verdict
from tracer.errors import NothingRecorded, UnknownName
from tracer.graph.names import matching

__all__ = ["Difference", "Exhibit", "compare"]

MOST_EXHIBITS = 4


@dataclass(frozen=True)
class Exhibit:
    """One parameter that stands for those that relate alike, with both its ledgers.

    `members` are all of them. `explains` says whether the ledgers come to the factor that was
    measured; None where one of the two is not known.
    """

    match: Match
    members: tuple[Match, ...]
    verdicts: tuple[Verdict, Verdict]
    partings: tuple[Parting, ...]
    explains: bool | None


@dataclass(frozen=True)
class Difference:
    """What two runs have in common and where they part.

    `shown` is the moment that everything else is about: the first at which the two do not take the
    same step, or the first of all. `moments` are all that both have.
    """

    a: Side
    b: Side
    partners: Partners
    moments: tuple[Comparison, ...]
    shown: Comparison | None
    exhibits: tuple[Exhibit, ...]
    updates: tuple[Update, ...]
    origins: tuple[Origin, ...]
    settings: tuple[Setting, ...]

    @property
    def is_none(self) -> bool:
        """Whether there is no difference in what was consumed and in the steps made of it."""
        whole = not (self.partners.only_a or self.partners.only_b or self.partners.reshaped)
        return (
            whole
            and bool(self.moments)
            and all(moment.is_same for moment in self.moments)
            and all(update.updates.is_same for update in self.updates)
        )

    @property
    def is_of_two_steps(self) -> bool:
        """Whether both sides are the same run, at two of its steps."""
        return self.a.trace.path == self.b.trace.path and self.a.step != self.b.step

    @property
    def parted_at(self) -> Comparison | None:
        """The first moment that is not like the one before it."""
        return _parted(self.moments)


def compare(a: Side, b: Side, parameter: str | None = None) -> Difference:
    """Compare two runs, or two steps of one; `parameter` narrows it to a single one.

    Raises:
        UnknownName: no such parameter, or the runs share none.
        NothingRecorded: one of them has no parameter at all.
    """
    found = partners(a.parameters, b.parameters)
    if parameter is not None:
        found = _only(found, parameter)
    for side in (a, b):
        if not side.parameters:
            raise NothingRecorded(
                "nothing-recorded",
                f"{side.label} has nothing to compare: no backward call of it wrote .grad, and no "
                "optimizer was there (autograd.grad hands gradients back and keeps none)",
            )
    if not found.pairs:
        raise UnknownName(
            "unknown-parameter",
            f"{a.label} and {b.label} have no parameter in common, by name or by shape: "
            "expected two runs of one model",
        )
    moments = timeline(a, b, found.pairs)
    shown, updates = _chosen(a, b, moments)
    exhibits = _exhibits(a, b, shown) if shown is not None else []
    origins: list[Origin] = []
    if shown is not None and not shown.is_proportional and exhibits:
        begin = exhibits[0].partings
        one, other = exhibits[0].verdicts
        terms = (len(one.terms), len(other.terms))
        origins = origins_of(a, b, shown, found.pairs, begin, terms)
    stands = exhibits[0].match if exhibits else None
    settings = settings_of(a, b, stands, updates)
    return Difference(
        a, b, found, tuple(moments), shown, tuple(exhibits), tuple(updates), tuple(origins),
        tuple(settings),
    )  # fmt: skip


def _only(found: Partners, parameter: str) -> Partners:
    name = matching(parameter, [pair.name_a for pair in found.pairs])
    return Partners(tuple(pair for pair in found.pairs if pair.name_a == name), (), ())


def _parted(moments: Sequence[Comparison]) -> Comparison | None:
    pairs = pairwise(moments)
    return next((later for earlier, later in pairs if not later.is_like(earlier)), None)


def _chosen(
    a: Side, b: Side, moments: Sequence[Comparison]
) -> tuple[Comparison | None, list[Update]]:
    """The first moment at which the two do not take the same step; else the first of all."""
    for moment in moments:
        updates = updates_of(a, b, moment)
        if not moment.is_proportional or not all(u.updates.is_same for u in updates):
            return moment, updates
    return (moments[0], updates_of(a, b, moments[0])) if moments else (None, [])


def _exhibits(a: Side, b: Side, shown: Comparison) -> list[Exhibit]:
    """One for each group of parameters that share a factor, and one for those that share none."""
    groups = [[shown.matches[n] for n in cluster.members] for cluster in shown.clusters]
    others = shown.of_kind("different", "near", "only-a", "only-b", "nonfinite-a", "nonfinite-b")
    if others:
        groups.insert(0, others)
    absent = shown.of_kind("absent-a", "absent-b")
    groups += [absent] if absent and not groups else []
    return [_exhibit(a, b, group) for group in groups[:MOST_EXHIBITS]]


def _exhibit(a: Side, b: Side, members: Sequence[Match]) -> Exhibit:
    match = next((m for m in members if m.relation.elements > 1), members[0])
    one, other = match.pair.a, match.pair.b
    verdicts = (a.verdict(one, match.a), b.verdict(other, match.b))
    ledgers = (a.ledger(one, match.a), b.ledger(other, match.b))
    is_multiple = match.relation.kind in ("multiple", "near")
    found = partings(*verdicts, ledgers, (a.trace, b.trace), is_multiple=is_multiple)
    return Exhibit(match, tuple(members), verdicts, tuple(found), _explains(match, found))


def _explains(match: Match, found: Sequence[Parting]) -> bool | None:
    ratios = [parting.ratio for parting in found]
    factor = match.relation.factor
    if match.relation.kind != "multiple" or not ratios or any(r is None for r in ratios):
        return None
    error = max(1e-4, 2 * match.relation.tolerance)
    return all(is_same(ratio, factor, error) for ratio in ratios if ratio is not None)
