"""The first line of `diff`: what a reader takes away who reads no further."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tracer.analysis.diff.difference import Difference
from tracer.analysis.diff.stages import is_uneven
from tracer.analysis.diff.timeline import Comparison
from tracer.analysis.exact import is_same, said
from tracer.semantics.effects import Exact
from tracer.views.diff_words import (
    MOST_NAMES,
    REDUCED,
    cancels,
    factors_before,
    names_of,
    times_of,
    when_of,
)
from tracer.views.labels import listed, plural

__all__ = ["headline"]

NEAR = 1e-2

CAUSES = (
    ("function", "Different losses: their gradients differ {since}"),
    ("items", "Different batches: their gradients differ {since}"),
    ("normalisation", "Different batch statistics {since}: other samples are normalised together"),
)
"""Kinds of origin that make a headline, the most telling first."""


def headline(found: Difference) -> str:
    """What a reader takes away who reads no further."""
    shown = found.shown
    if shown is None and found.a.step is not None and found.b.step is not None:
        return "Nothing to compare: no parameter is taken by both steps."
    if shown is None:
        return "Nothing to compare: no step or filling of a buffer is in both."
    if shown.is_unmeasured:
        return "Nothing to compare: no gradient was measured in both."
    if found.is_none:
        return _of_no_difference(found)
    if shown.is_proportional and shown.clusters:
        return _since(found, shown, _of_one_factor(found, shown))
    if shown is not found.moments[0]:
        return _of_a_later_moment(found, shown)
    if shown.is_proportional_where_both and shown.clusters:
        return "The same gradients, but not for the same parameters."
    if len(shown.clusters) > 1 and not shown.of_kind("near", "different"):
        return _of_factors(shown)
    return _of_directions(found, when_of(shown))


def _since(found: Difference, shown: Comparison, sentence: str) -> str:
    """A sentence about the moment shown, with what held before it."""
    if shown is found.moments[0]:
        return sentence
    before = _before(found, shown, factors_before(found, shown))
    return f"{before}; at {when_of(shown)} {sentence[:1].lower()}{sentence[1:]}"


def _of_factors(shown: Comparison) -> str:
    """Which parameters differ by which factor, of the two largest groups."""
    clusters = shown.clusters
    if len(clusters) > 2:
        factors = sorted((abs(float(c.factor)), c.factor) for c in clusters)
        ends = f"from {said(factors[0][1])} to {said(factors[-1][1])}"
        return f"{len(clusters)} factors, {ends}: not all parameters differ by the same one."
    told = []
    for cluster in clusters:
        members = [shown.matches[n] for n in cluster.members]
        what = "the same gradients" if cluster.factor == 1 else times_of(cluster.factor)
        names = f" ({names_of(members)})" if len(members) <= MOST_NAMES else ""
        told.append(f"{what} for {plural(len(members), 'parameter')}{names}")
    sentence = "; ".join(told)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _of_no_difference(found: Difference) -> str:
    off = max(m.relation.off for moment in found.moments for m in moment.matches)
    beyond = f" beyond what reduced precision rounds (up to {off:.1g})" if off > REDUCED else ""
    parts = any(stage.parts for e in found.exhibits for p in e.partings for stage in p.stages)
    how = ", though they come to it in different ways" if parts else ""
    steps = " and the same steps" if any(u.updates.kind != "none" for u in found.updates) else ""
    return f"No difference{beyond}: the same gradients{steps}{how}."


def _of_one_factor(found: Difference, shown: Comparison) -> str:
    """The factor, and what the optimizer makes of it."""
    factor = shown.clusters[0].factor
    same = "The same gradients" if factor == 1 else f"Gradients {times_of(factor)}"
    updates = [update.updates for update in found.updates]
    kinds = {one.kind for one in updates}
    if kinds == {"none"}:
        return f"{same}."
    if all(one.is_same for one in updates):
        if found.partners.only_a or found.partners.only_b or found.partners.reshaped:
            return f"{same}, but not for the same parameters."
        if factor == 1 or kinds == {"linear"}:
            return f"{same}, {'' if factor == 1 else 'but '}the same steps."
        return f"{same}, which {cancels(updates[0])}."
    ratios = [one.ratio for one in updates]
    if all(ratio is not None and is_same(ratio, ratios[0]) for ratio in ratios):
        if is_same(ratios[0], factor) and factor != 1:
            return f"Gradients and steps {times_of(factor)}."
        if not is_same(ratios[0], Fraction(1)):
            return f"{same}, and steps {times_of(ratios[0])}."
    return f"{same}, but not the same steps: {_why_not(found)}."


def _why_not(found: Difference) -> str:
    """What makes other steps of the same gradients, or of multiples."""
    updates = [update.updates for update in found.updates]
    unlike = [one.kinds for one in updates if one.kind == "unlike"]
    if unlike:
        one, other = (kind or "no optimizer" for kind in unlike[0])
        return f"{one} in A, {other} in B"
    differing = [one for one in updates if not one.is_same]
    reasons = dict.fromkeys(reason for one in differing for reason in one.differs)
    whose = ""
    if len(differing) < len(updates):
        count = sum(len(u.members) for u in found.updates if not u.updates.is_same)
        whose = f" for {plural(count, 'parameter')}"
    verb = "differs" if len(reasons) == 1 else "differ"
    return f"{listed(list(reasons), MOST_NAMES)} {verb}{whose}"


def _of_a_later_moment(found: Difference, shown: Comparison) -> str:
    """Of runs that took the same steps before, with the same gradients or with multiples."""
    factors = factors_before(found, shown)
    before = _before(found, shown, factors)
    for which in "AB":
        if shown.of_kind(f"nonfinite-{which.lower()}"):
            return f"{before}; gradients of {which} are not finite from there on."
    near = [match.relation for match in shown.of_kind("multiple", "near")]
    is_one = len(factors) == 1 and all(is_same(r.factor, factors[0], NEAR) for r in near)
    if is_one and len(near) == len(shown.compared):
        off = max(relation.off for relation in near)
        return (
            f"{before}; from there on apart by a little, up to {off:.1g} "
            "of the norm: rounding that grows, or a small cause."
        )
    cause = _cause(found, f"from {when_of(shown)} on")
    if cause and not cause.startswith("Different weights"):
        return f"{before}; then {cause[:1].lower()}{cause[1:]}."
    return f"{before}{', ' if factors == [1] else '; '}different from there on."


def _before(found: Difference, shown: Comparison, factors: Sequence[Exact]) -> str:
    """What holds before a moment: the steps are the same until then."""
    if factors == [1]:
        return f"The same before {when_of(shown)}"
    what = times_of(factors[0]) if len(factors) == 1 else "with changing factors"
    steps = ", but the same steps" if shown.is_step else ""
    adaptive = [one.updates for one in found.updates if one.updates.kind == "adaptive"]
    if adaptive:
        steps = f", which {cancels(adaptive[0])}"
    return f"Gradients {what} before {when_of(shown)}{steps}"


def _of_directions(found: Difference, when: str) -> str:
    """Why no factor makes one of the other, as far as the facts say."""
    shown = found.shown
    if shown is not None and shown.of_kind("nonfinite-a", "nonfinite-b"):
        which = "A" if shown.of_kind("nonfinite-a") else "B"
        return f"Gradients of {which} are not finite from {when} on."
    cause = _cause(found, f"from {when} on")
    if cause:
        return f"{cause}."
    return f"Different directions from {when} on: no factor makes one gradient of the other."


def _cause(found: Difference, since: str) -> str:
    """The most telling of all that is known, "" if nothing is."""
    kinds = {origin.kind for origin in found.origins}
    if "graph" in kinds or found.partners.only_a or found.partners.only_b:
        return f"Different models: their gradients differ {since}"
    if "weights" in kinds:
        return "Different weights from the start: everything after that differs, too"
    if found.is_of_two_steps:
        return "Two steps of one run: the weights have moved in between, and the data may differ"
    of_weights = _cause_in_ledgers(found, since)
    if of_weights:
        return of_weights
    option = next((origin.words for origin in found.origins if origin.kind == "option"), "")
    if option:
        return f"Different options {since}: {option}"
    return next((words.format(since=since) for kind, words in CAUSES if kind in kinds), "") or (
        _cause_in_data(found, since) if "loss" in kinds else ""
    )


def _cause_in_ledgers(found: Difference, since: str) -> str:
    """What the weights of items, calls and losses say."""
    partings = [parting for exhibit in found.exhibits for parting in exhibit.partings]
    if any(parting.is_unequal for parting in partings):
        return "Different directions: items do not weigh the same against one another"
    for side, name in enumerate("AB"):
        if any(p.leftovers[side] and not p.leftovers[1 - side] for p in partings):
            return f"Different directions: {name} adds what an earlier step has used already"
    if _reweighed(found):
        return "Different directions: losses do not weigh the same against one another"
    unknown = next((parting.unknown for parting in partings if parting.unknown), "")
    return f"Different directions {since}: {unknown}" if unknown else ""


def _cause_in_data(found: Difference, since: str) -> str:
    rows = [
        row for exhibit in found.exhibits for p in exhibit.partings for term in (p.a, p.b)
        for row in term.rows
    ]  # fmt: skip
    if any(is_uneven(row) for row in rows):
        return f"Different data, randomness, or weights of items, {since}"
    if any(origin.kind == "random" for origin in found.origins):
        return f"Different randomness (dropout), or data, {since}"
    return f"Different data, or randomness, {since}"


def _reweighed(found: Difference) -> bool:
    """Whether the ledgers say that one loss grew more than another."""
    ratios = [parting.ratio for exhibit in found.exhibits for parting in exhibit.partings]
    known = [ratio for ratio in ratios if ratio is not None]
    return any(not is_same(ratio, known[0]) for ratio in known)
