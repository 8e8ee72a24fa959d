"""Where two runs part if no factor explains it: weights, graph, data, or one node of the backward.

Each finding is a claim about recorded facts. They are looked for in the order of their power: runs
that begin with other weights differ in everything else, and that is then no news.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from tracer.analysis.callfacts import CallFacts, Tensor
from tracer.analysis.diff.forwards import (
    functions,
    graphs,
    is_alike,
    named,
    normalisations,
    place_of,
)
from tracer.analysis.diff.origin import Origin
from tracer.analysis.diff.partners import Partnership
from tracer.analysis.diff.relation import Relation, related
from tracer.analysis.diff.sides import Moment, Side
from tracer.analysis.diff.stages import Parting, is_uneven
from tracer.analysis.diff.timeline import Comparison
from tracer.analysis.exact import is_same, product, rounding
from tracer.analysis.ledger import Books, Row
from tracer.analysis.verdicts import TermVerdict
from tracer.events import Call, Measurement
from tracer.semantics.effects import Exact

__all__ = ["losses_of", "origins_of"]

MOST_NODES = 30_000
EXPLAINING = ("nonfinite", "weights", "graph", "function", "normalisation", "loss")
"""Origins after which a node that parts the gradients is no news."""
DROPPING = ("NativeDropout", "FusedDropout")


def origins_of(
    a: Side,
    b: Side,
    comparison: Comparison,
    pairs: Sequence[Partnership],
    partings: Sequence[Parting],
    terms: tuple[int, int],
) -> list[Origin]:
    """What is known of where gradients of one moment part; `terms` is how many losses add up."""
    found = list(_weights(a, b, pairs))
    differing = comparison.compared
    if not differing:
        return []
    match = differing[0]
    calls = (a.calls(match.a), b.calls(match.b))
    if not all(calls):
        return found
    first = (a.books.archive.call(calls[0][0].order), b.books.archive.call(calls[1][0].order))
    if comparison.is_proportional_where_both and not found:
        return list(graphs(a, b, *first)) if comparison.is_cut else []
    found = [*_nonfinite(a, b, comparison, calls), *found, *graphs(a, b, *first)]
    if not any(origin.kind == "graph" for origin in found):
        found += functions(*first, terms)
    found += normalisations(*first)
    # The value of a call is that of all its losses: to be compared, each must have its like.
    is_whole = terms == (len(partings), len(partings))
    if is_whole and not comparison.of_kind("nonfinite-a", "nonfinite-b"):
        found += _losses(a, b, (match.a, match.b), partings)
    if len(calls[0]) == len(calls[1]) and not any(o.kind in EXPLAINING for o in found):
        found += islice(_nodes(a, b, *calls), 1)
    return found + list(_randomness(*first))


# What is not finite.


def _nonfinite(
    a: Side, b: Side, comparison: Comparison, calls: tuple[Sequence[Call], Sequence[Call]]
) -> Iterator[Origin]:
    for which, side, those in (("a", a, calls[0]), ("b", b, calls[1])):
        if comparison.of_kind(f"nonfinite-{which}"):
            for number, call in enumerate(those, start=1):
                found = _burst(side, call, number, which.upper()) if _is_bad(side, call) else None
                if found is not None:
                    words, source = found
                    yield Origin("nonfinite", words, *_one_sided(source, which))
                    break


def _is_bad(side: Side, call: Call) -> bool:
    return side.trace.nonfinite(call)


def _one_sided(source: int | None, which: str) -> tuple[int | None, int | None]:
    return (source, None) if which == "a" else (None, source)


def _burst(side: Side, call: Call, number: int, which: str) -> tuple[str, int | None] | None:
    """Whether the loss was not finite already, or else the first node that sends what is not."""
    facts = side.books.archive.call(call.order)
    for root in facts.layout.roots:
        value = facts.tensor(root.form, root.value).measured if root.value is not None else None
        if value is not None and value.nonfinite:
            words = f"the loss of backward call {number} is not finite in {which}"
            return words, facts.node(root.node).source or call.source
    for index in facts.order:
        came = [t.measured for t in facts.received.get(index, {}).values()]
        left = [sent.tensor.measured for sent in facts.leaving.get(index, ())]
        if any(_is_infinite(m) for m in left) and not any(_is_infinite(m) for m in came):
            words = f"{named(facts, index)} sends what is not finite, in backward call {number}"
            return f"{words} of {which}", facts.node(index).source
    return None


def _is_infinite(measured: Measurement | None) -> bool:
    return measured is not None and measured.nonfinite > 0


# The weights that the runs began with.


def _weights(a: Side, b: Side, pairs: Sequence[Partnership]) -> Iterator[Origin]:
    known = [(pair, a.value(pair.a), b.value(pair.b)) for pair in pairs]
    values = [(pair, one, other) for pair, one, other in known if one and other]
    differ = [
        pair
        for pair, one, other in values
        if related(one, other, rounding(a.trace.buffers[pair.a].dtype)).factor != 1
        and not (one.largest == 0 == other.largest)
    ]
    if differ:
        words = f"the weights differ from the start: {len(differ)} of {len(values)} parameters"
        yield Origin("weights", f"{words}, the first is {differ[0].name_a}")


# What the losses say of the data.


def losses_of(side: Side, rows: Sequence[Row]) -> float | None:
    """The losses of the items of some rows added up, each as it is before any reduction.

    The value of a root is the sum of its items' losses times their weight, if all weigh the same.
    """
    if any(is_uneven(row) for row in rows):
        return None
    calls: dict[tuple[int | None, int], list[Row]] = {}
    for row in rows:
        calls.setdefault((row.rank, row.call), []).append(row)
    whole = 0.0
    for (rank, order), members in calls.items():
        weight = members[0].weight_at_loss
        if not weight or not all(is_same(row.weight_at_loss, weight) for row in members):
            return None
        value = _value(_books(side, rank).archive.call(order))
        start = product(f.value for f in members[0].loss if f.kind == "start")
        if value is None or start is None:
            return None
        whole += value * float(start) / float(weight)
    return whole


def _books(side: Side, rank: int | None) -> Books:
    return side.books if rank is None else side.books.ranks.get(rank, side.books)


def _value(facts: CallFacts) -> float | None:
    """What the roots of a call add up to."""
    values = [facts.tensor(r.form, r.value).measured for r in facts.layout.roots]
    if not values or any(v is None or v.nonfinite or isinstance(v.sum, complex) for v in values):
        return None
    return sum(float(v.sum.real) for v in values if v is not None)


def _losses(
    a: Side, b: Side, moments: tuple[Moment, Moment], partings: Sequence[Parting]
) -> Iterator[Origin]:
    ratio = _shared_ratio(partings)
    parting = partings[0] if partings and (len(partings) == 1 or ratio is not None) else None
    rows = [_fresh(term) for term in (parting.a, parting.b)] if parting is not None else [[], []]
    one, other = losses_of(a, rows[0]), losses_of(b, rows[1])
    items = [sum(row.items for row in side) for side in rows]
    if parting is None or one is None or other is None:
        if not any(p.parted or p.weighings or p.unknown for p in partings):
            yield from _first_values(a, b, moments)
    elif items[0] != items[1]:
        words = f"the losses are of {items[0]} items in A and of {items[1]} in B"
        yield Origin("items", words, parting.a.term.source, parting.b.term.source)
    elif abs(one - other) <= 1e-4 * max(abs(one), abs(other)):
        words = f"the losses of the {items[0]} items add up to {one:.6g} in both: the same data"
        yield Origin("data", words, parting.a.term.source, parting.b.term.source)
    else:
        words = f"the losses of the {items[0]} items add up to {one:.6g} in A and {other:.6g} in B"
        yield Origin("loss", words, parting.a.term.source, parting.b.term.source)


def _fresh(term: TermVerdict) -> list[Row]:
    """The rows of this step's own calls: not what an earlier step has used already."""
    return [row for row in term.rows if not row.is_repeated]


def _shared_ratio(partings: Sequence[Parting]) -> Exact | None:
    """What an item of every loss weighs in B beside A, at the loss, if it is one number."""
    ratios = []
    for parting in partings:
        one, other = parting.a.rows[0].weight_at_loss, parting.b.rows[0].weight_at_loss
        if not one or other is None:
            return None
        ratios.append(other / one)
    return ratios[0] if ratios and all(is_same(r, ratios[0]) for r in ratios) else None


def _first_values(a: Side, b: Side, moments: tuple[Moment, Moment]) -> Iterator[Origin]:
    """Call by call, where there are as many."""
    left, right = a.calls(moments[0]), b.calls(moments[1])
    if len(left) != len(right):
        return
    for number, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        values = [
            _value(side.books.archive.call(call.order)) for side, call in ((a, one), (b, other))
        ]
        if None in values or values[0] is None or values[1] is None:
            return
        if abs(values[0] - values[1]) > 1e-4 * max(abs(values[0]), abs(values[1])):
            told = f"{values[0]:.6g} in A, {values[1]:.6g} in B"
            words = f"the loss of backward call {number} is {told}"
            yield Origin("loss", words, one.source, other.source)
            return


# The first node that makes of the same gradient another one.


def _nodes(a: Side, b: Side, left: Sequence[Call], right: Sequence[Call]) -> Iterator[Origin]:
    for number, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        facts = (a.books.archive.call(one.order), b.books.archive.call(other.order))
        if is_alike(*facts) and len(facts[0].structure.nodes) <= MOST_NODES:
            yield from _parting_nodes(a, *facts, number)


def _parting_nodes(a: Side, one: CallFacts, other: CallFacts, number: int) -> Iterator[Origin]:
    twins = {sent.number: sent for sents in other.leaving.values() for sent in sents}
    for index in one.order:
        factor = _factor_at(one, other, index)
        if factor is None:
            continue
        for sent in one.leaving.get(index, ()):
            twin = twins.get(sent.number)
            if twin is None:
                continue
            relation = _between(sent.tensor, twin.tensor)
            if _is_off(relation, factor):
                yield Origin("node", _told(a, one, index, number),
                             one.node(index).source, other.node(index).source)  # fmt: skip
                return


def _factor_at(one: CallFacts, other: CallFacts, index: int) -> Exact | None:
    """The factor of all that the node received, None if there is no such."""
    left, right = one.received.get(index, {}), other.received.get(index, {})
    if not left or left.keys() != right.keys():
        return None
    found = [_between(left[place], right[place]) for place in left]
    factors = [relation.factor for relation in found if relation.kind == "multiple"]
    is_one = len(factors) == len(found) and all(is_same(f, factors[0], 1e-4) for f in factors)
    return factors[0] if is_one else None


def _between(left: Tensor, right: Tensor) -> Relation:
    tolerance = max(rounding(left.form.dtype), rounding(right.form.dtype))
    return related(left.measured, right.measured, tolerance)


def _is_off(relation: Relation, factor: Exact) -> bool:
    if relation.kind == "multiple":
        return not is_same(relation.factor, factor, 1e-3)
    return relation.kind in ("different", "only-a", "only-b")


def _told(a: Side, facts: CallFacts, index: int, number: int) -> str:
    place = place_of(a, facts, index)
    where = f" in {place}" if place else ""
    return (
        f"in backward call {number} both reach {named(facts, index)}{where} with the same gradient "
        "and leave it with another"
    )


def _randomness(one: CallFacts, other: CallFacts) -> Iterator[Origin]:
    """Functions that draw random numbers, in both."""
    drawing = [next((i for i in facts.order if _drops(facts, i)), None) for facts in (one, other)]
    if drawing[0] is not None and drawing[1] is not None:
        sources = (one.node(drawing[0]).source, other.node(drawing[1]).source)
        yield Origin("random", "both drop values at random (dropout)", *sources)


def _drops(facts: CallFacts, index: int) -> bool:
    node = facts.node(index)
    module = facts.trace.modules.get(node.module) if node.module is not None else None
    return (
        node.name.startswith(DROPPING)
        or "dropout" in node.called
        or (module is not None and "Dropout" in module.kind)
    )
