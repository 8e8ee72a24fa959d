"""What the rows of a ledger come to, in words, per axis: summed, averaged, or unequal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tracer.analysis.axis import Axis
from tracer.analysis.exact import is_same, product, said, tidy, total
from tracer.analysis.ledger import Ledger, Row, Term
from tracer.analysis.rankaxis import alone, named_ranks, of_ranks, ranks_axis
from tracer.analysis.rankhistory import EXCHANGED
from tracer.analysis.strand import Factor
from tracer.semantics.effects import Exact
from tracer.tracefile import Trace

__all__ = ["TermVerdict", "Verdict", "verdict_of"]

ONE = Fraction(1)
MOST_FACTORS = 3


@dataclass(frozen=True)
class TermVerdict:
    """One loss: what all its items together come to.

    `total` is the sum of the weights of all items, `weight` that of each if they are equal, `ratio`
    the largest weight over the least, `least` and `largest` what items weigh at the extremes, where
    they differ and that is known. `kind` is "mean", "sum", "scaled-mean", "scaled-sum",
    "unequal", "weighted", "empty" (all items are left out) or "unknown". `unit` names what
    `unit_weight` is the weight of. `rows` are those of the ledger that it was made of.
    """

    term: Term
    kind: str
    words: str
    items: int
    total: Exact | None
    weight: Exact | None
    ratio: float | None
    unit: str
    unit_weight: Exact | None
    calls: Axis
    unknown: str = ""
    rows: tuple[Row, ...] = ()
    least: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Every axis of a ledger, each loss, and the sentence that sums it up."""

    axes: tuple[Axis, ...]
    terms: tuple[TermVerdict, ...]
    words: str

    @property
    def signature(self) -> tuple[object, ...]:
        """What two parameters share if the same answer holds for both."""
        return (self.words, tuple((a.name, a.verdict, a.words) for a in self.axes))


def verdict_of(ledger: Ledger, trace: Trace) -> Verdict:
    """The answer for one buffer at one step."""
    own = _verdict(alone(ledger), trace)
    is_joint = bool(ledger.history.shared) or len({row.rank for row in ledger.rows}) > 1
    found = _verdict(_of_all(ledger), trace) if is_joint else own
    is_sum = all(term.kind == "sum" for term in own.terms) or any(
        term.kind == "mean" for term in found.terms
    )
    axes = (*own.axes, ranks_axis(ledger, trace, is_sum))
    return Verdict(axes, found.terms, found.words + _partly(ledger))


def _verdict(ledger: Ledger, trace: Trace) -> Verdict:
    """The answer for the rows of one rank, or of all; without the line of the ranks."""
    groups = _terms(sorted(ledger.rows, key=lambda row: _place(row, trace)))
    terms = tuple(_term_verdict(rows[0].term, rows, ledger, trace) for rows in groups)
    axes = [_items_axis(rows) for rows in groups]
    axes += [_replicas_axis(ledger, rows) for rows in groups[:1]]
    axes += _calls_axes(ledger, terms)
    axes += _buffer_axes(ledger, trace)
    return Verdict(tuple(axes), terms, _sentence(ledger, terms))


def _of_all(ledger: Ledger) -> Ledger:
    return replace(ledger, rows=tuple(of_ranks(row) for row in ledger.rows))


def _partly(ledger: Ledger) -> str:
    """Whose items the answer does not speak of."""
    missing = sorted({rank for shared in ledger.history.shared for rank in shared.missing})
    return f"; without the items of {named_ranks(missing)}" if missing else ""


def _terms(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each loss; `fake.mean() - real.mean()` on one line are two."""
    groups: dict[Term, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.term, []).append(row)
    found: list[list[Row]] = []
    for every in groups.values():
        group = [row for row in every if not _is_empty(row)] or every
        parts: dict[object, list[Row]] = {}
        is_several = _differ_in_one_call(group)
        for row in group:
            factors = (*row.loss, *row.after)
            path = tuple((f.kind, f.source) for f in factors if f.kind != "reduction")
            parts.setdefault(path if is_several else None, []).append(row)
        found += _with_odd_ones(list(parts.values()), group)
    return found


def _with_odd_ones(parts: list[list[Row]], group: Sequence[Row]) -> list[list[Row]]:
    """A loop is one loss, though one round of it has another factor: `* 1.0` is none at all."""
    most = max(parts, key=len)
    if len(most) < 2 or len(parts) < 2:
        return parts
    rest = [part for part in parts if len(part) > 1 and part is not most]
    others = {id(row) for part in rest for row in part}
    return [[row for row in group if id(row) not in others], *rest]


def _is_empty(row: Row) -> bool:
    """Whether it has no items: all were left out, or there were none to begin with."""
    return not row.items and not row.unknown


def _differ_in_one_call(rows: Sequence[Row]) -> bool:
    """Whether one call and replica has rows that weigh differently."""
    weights: dict[tuple[int | None, int, int | None], Exact | None] = {}
    for row in rows:
        place = (row.rank, row.call, row.replica)
        if not is_same(weights.setdefault(place, row.weight), row.weight):
            return True
    return False


def _place(row: Row, trace: Trace) -> tuple[int, int, str, int]:
    source = trace.sources.get(row.term.items) if row.term.items is not None else None
    line = (source.file, source.line) if source else ("", 0)
    return (row.rank or 0, row.call, *line)


# The items of one loss.


def _items_axis(rows: Sequence[Row]) -> Axis:
    first = rows[0]
    last = first.reductions[-1] if first.reductions else None
    source = last.source if last else first.term.source
    if first.unknown and not _is_known_at_loss(first):
        return Axis("items", "?", first.unknown, source=source)
    if _is_empty(first):
        is_sum = first.weight is not None or (last is not None and last.kind == "sum")
        note = "nothing is added: 0" if is_sum else "a mean of nothing: 0/0"
        return Axis("items", "none", _left_out(first), note, source)
    if last is None:
        return _values_axis(rows, source)
    words = _items_words(rows)
    masked = sum(row.masked for row in rows)
    if masked:
        words += f", {masked:,} more left out by a mask"
    notes = {_others(row) for row in rows}
    note = notes.pop() if len(notes) == 1 else ""
    return Axis("items", reduction_word(first), words, note, source)


def _items_words(rows: Sequence[Row]) -> str:
    """How many items there are, in how many reductions, and what each weighs at the loss."""
    first, sizes = rows[0], _sizes(rows)
    counts = list(dict.fromkeys(sizes))
    if len(counts) > 1:
        if len(counts) < len(sizes):
            return f"{sum(sizes):,} items in {len(sizes)} reductions of {_listed(counts)}"
        return f"{_listed(counts)} items in {len(sizes)} reductions"
    if len(sizes) < len(rows):
        if len(sizes) > 1:
            return f"{sum(sizes):,} items in {len(sizes)} reductions of {counts[0]:,}"
        parts = [row.items for row in rows]
        is_even = len(set(parts)) == 1
        told = f"{len(parts):,} parts of {parts[0]:,}" if is_even else f"parts of {_listed(parts)}"
        return f"{counts[0]:,} items, {_each_at_loss(rows)}, in {told}"
    words = f"{_counted(first)}, {_each_at_loss(rows)}"
    alike = sum(row.call == first.call and row.replica == first.replica for row in rows)
    if first.replica is not None and alike < len([r for r in rows if r.call == first.call]):
        words += ", per replica"
    if alike > 1:
        words += f", in {alike:,} losses of this line"
    return words


def _listed(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts[:6]))}{' ...' if counts[6:] else ''}"


def _sizes(rows: Sequence[Row]) -> list[int]:
    """The items of each reduction, of whose items some may have gone another way than the rest.

    The lesser of two losses, element by element, is one reduction, and its items are in two rows.
    """
    found: dict[tuple[int | None, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(_together(row), []).append(row)
    sizes = []
    for parts in found.values():
        whole = sum(row.items for row in parts)
        is_one = whole == parts[0].reductions[-1].over
        sizes += [whole] if is_one else [row.items for row in parts]
    return sizes


def _together(row: Row) -> tuple[int | None, ...]:
    """What rows share that were reduced by one node."""
    return (row.rank, row.call, row.replica, row.reductions[-1].node)


def _is_known_at_loss(row: Row) -> bool:
    """Whether only what came after the loss makes the weights unknown."""
    whose = [factor.words for factor in row.after if factor.value is None]
    return row.weight_at_loss is not None and any(row.unknown.startswith(words) for words in whose)


def _each_at_loss(rows: Sequence[Row]) -> str:
    """What one item weighs at the loss: 1/8 each; 1/12 to 1/3."""
    first = rows[0]
    if first.is_uneven:
        if not first.weight or first.weight_at_loss is None or first.largest is None:
            return "weighing differently"
        scale = float(first.weight_at_loss / first.weight) / float(
            product(f.value for f in _beside(first)) or 1
        )
        least = None if first.least is None else scale * first.least
        return f"{_from_to(least, scale * first.largest)} each"
    if _is_weighted(first):
        return f"{said(_at_reduction(first))} x its own weight each"
    return f"{said(_at_reduction(first))} each"


def _left_out(row: Row) -> str:
    return f"all {row.masked:,} items are left out" if row.masked else "there are no items"


def _values_axis(rows: Sequence[Row], source: int | None) -> Axis:
    count, weight = sum(row.items for row in rows), rows[0].weight_at_loss
    if count == 1:
        made = f", {rows[0].made}" if rows[0].made else ", not reduced"
        return Axis("items", "one", f"a single value{made}", _others(rows[0]), source)
    is_mean = weight is not None and is_same(weight * count, ONE)
    if any(row.is_uneven for row in rows) or not _are_equal([row.weight_at_loss for row in rows]):
        return Axis("items", "sum", f"{count:,} values added one by one", source=source)
    words = f"{count:,} values added one by one, {said(weight)} each"
    return Axis("items", "mean" if is_mean else "sum", words, source=source)


def reduction_word(row: Row) -> str:
    """How the items of a row were reduced in the graph: mean, sum, sum of means."""
    kinds = [_plain(r.kind) for r in row.reductions if r.over > 1] or [row.reductions[-1].kind]
    if row.reductions[-1].kind == "weighted-mean":
        return "weighted mean"
    if row.is_uneven and len(set(kinds)) == 1:
        is_mean = row.weight_at_loss is not None and is_same(
            row.weight_at_loss * row.items, ONE
        )  # fmt: skip
        return "weighted mean" if is_mean else f"weighted {kinds[0]}"
    if len(set(kinds)) == 1:
        only = kinds[0]
        weight = row.weight_at_loss
        is_divided = only == "sum" and row.items > 1 and weight is not None
        return "mean" if is_divided and is_same(weight, Fraction(1, row.items)) else only
    return f"{kinds[0]} of {kinds[-1]}s"


def _plain(kind: str) -> str:
    return "mean" if kind == "weighted-mean" else kind


def _counted(row: Row) -> str:
    """8 samples of 4 elements; 32 items."""
    samples = row.samples
    if samples is not None and samples.each > 1:
        return f"{samples.count} samples of {samples.each} elements"
    return f"{row.items:,} {'item' if row.items == 1 else 'items'}"


def _at_reduction(row: Row) -> Exact | None:
    return product(f.value for f in row.loss if f.kind == "reduction")


def _others(row: Row) -> str:
    """What else the loss was multiplied with in the graph."""
    factors = _beside(row)
    scale = product(f.value for f in factors)
    if scale == 1:
        return ""
    loud = [f for f in reversed(factors) if f.value != 1]
    if scale is None or not 1 < len({f.source for f in loud}) == len(loud) <= MOST_FACTORS:
        return f"x {said(scale)} in the loss"
    return f"{' '.join(f'x {said(f.value)}' for f in loud)} in the loss"


def _beside(row: Row) -> list[Factor]:
    return [f for f in row.loss if f.kind not in ("reduction", "own")]


# Replicas, backward calls and ranks.


def _replicas_axis(ledger: Ledger, rows: Sequence[Row]) -> Axis:
    if ledger.replicas < 2:
        return Axis("replicas", "-", "one replica")
    one_call = [row for row in rows if row.call == rows[0].call]
    by_replica = {row.replica for row in one_call}
    whole = {row.reductions[-1].node for row in one_call if row.reductions}
    if len(by_replica) < 2 or len(whole) < 2:
        words = f"{ledger.replicas} replicas of one loss, taken over all of them"
        return Axis("replicas", "sum", words, "DataParallel adds them")
    totals = [row.total for row in one_call]
    known = [t for t in totals if t is not None]
    if len(known) < len(totals):
        return Axis("replicas", "?", one_call[0].unknown)
    counts = ", ".join(str(row.items) for row in one_call)
    if not _are_equal([row.weight for row in one_call]):
        return Axis("replicas", "UNEQUAL", f"{len(known)} losses over {counts} items", _ratio_of(
            one_call))  # fmt: skip
    calls = len({row.call for row in rows})
    together = _unclipped(total(known), one_call)
    is_mean = is_same(together, ONE) or is_same(together, Fraction(1, calls))
    if is_mean or _are_averaged(one_call, len(by_replica)):
        return Axis("replicas", "mean", f"{len(known)} losses, one per replica, averaged")
    if reduction_word(one_call[0]) == "sum":
        return Axis("replicas", "sum", f"{len(known)} sums, one per replica, added")
    words = f"{len(known)} losses, one per replica, x {said(known[0])} each"
    return Axis("replicas", "SUM", words, "added, not averaged")


def _are_averaged(rows: Sequence[Row], replicas: int) -> bool:
    """Whether a mean was taken over what the replicas returned."""
    return all(
        any(r.kind == "mean" and r.over == replicas for r in row.reductions[:-1]) for row in rows
    )


def _calls_axes(ledger: Ledger, terms: Sequence[TermVerdict]) -> list[Axis]:
    """One line if the losses agree; else one for each."""
    found = list(dict.fromkeys(term.calls for term in terms))
    calls = {row.number for row in ledger.rows}
    if len(terms) > 1 and len(calls) > 1 and all(len(_calls_in(ledger, t)) == 1 for t in terms):
        words = f"{len(calls)} calls of different losses, added"
        return [Axis("backward calls", "sum", words, _between(ledger), found[0].source)]
    by_text: dict[tuple[str, str], Axis] = {}
    for axis in found:
        by_text.setdefault((axis.verdict, axis.words), axis)
    return list(by_text.values()) or [Axis("backward calls", "-", "none was recorded")]


def _calls_in(ledger: Ledger, term: TermVerdict) -> set[int]:
    return {row.number for row in ledger.rows if row.term == term.term}


def _calls_axis(rows: Sequence[Row], whole: TermVerdict | None, ledger: Ledger) -> Axis:
    calls = list(dict.fromkeys(row.number for row in rows))
    name, count = "backward calls", len(calls)
    source = rows[-1].term.source
    entries = {e.call: e.source for e in ledger.history.entries}
    source = entries.get(rows[-1].call, source)
    note = _between(ledger)
    if count == 1:
        return Axis(name, "-", "one call", source=source)
    if any(row.unknown for row in rows) or whole is None:
        return Axis(name, "?", f"{count} calls", note, source)
    if whole.kind == "unequal":
        return Axis(name, "UNEQUAL", f"{count} calls, {_why_unequal(rows)}", note, source)
    if whole.kind == "sum" or (_is_sum(rows) and rows[0].reductions):
        return Axis(name, "sum", f"{count} calls, one sum together", note, source)
    if whole.kind == "mean":
        each = total([t for row in rows if row.call == rows[0].call and (t := row.total)])
        divided = f", x {said(each)} each" if is_same(each, Fraction(1, count)) else ""
        return Axis(name, "mean", f"{count} calls, one mean together{divided}", note, source)
    first = [t for row in rows if row.call == rows[0].call and (t := row.total)]
    per_call = _unclipped(total([-t if t < 0 else t for t in first]), rows)
    if is_same(per_call, Fraction(1, count)):
        words = f"{count} calls, one mean together, x {said(per_call)} each"
        return Axis(name, "mean", words, note, source)
    same = " of the same items" if any(row.again for row in rows) else ""
    if is_same(per_call, ONE):
        return Axis(name, "SUM", f"{count} calls{same}, not divided", note, source)
    per_sample = per_call / _summed_elements(rows)
    return Axis(name, "SUM", f"{count} calls{same}, x {said(per_sample)} each", note, source)


def _summed_elements(rows: Sequence[Row]) -> int:
    """How many elements one sample is the sum of, where the answer is given in samples."""
    each = {r.samples.each for r in rows if r.samples is not None and r.samples.inside == "sum"}
    return each.pop() if len(each) == 1 and all(row.samples for row in rows) else 1


def _unclipped(value: Exact, rows: Sequence[Row]) -> Exact:
    """Without the clips that all calls share: they say nothing of how calls are put together."""
    for factor in rows[-1].after:
        is_shared = all(factor in row.after for row in rows)
        if factor.kind == "clip_grad_norm" and is_shared and factor.value:
            value = value / factor.value
    return value if isinstance(value, Fraction) else tidy(value, 2e-6)


def _between(ledger: Ledger) -> str:
    earlier = sum(bool(entry.consumed[:-1]) for entry in ledger.history.entries)
    if earlier:
        return f"{earlier} of them used by an earlier step already: no zero_grad since"
    return "no zero_grad between" if len(ledger.history.entries) > 1 else ""


def _why_unequal(rows: Sequence[Row]) -> str:
    counts = list(dict.fromkeys(row.items for row in rows))
    if len(counts) > 1:
        return f"each over its own count ({', '.join(map(str, counts[:6]))})"
    if any(_is_uneven(row) for row in rows):
        return "whose items weigh differently"
    return "scaled differently"


def _buffer_axes(ledger: Ledger, trace: Trace) -> list[Axis]:
    """What multiplied all of the gradient, or a part of it, after the loss."""
    found: dict[Factor, list[Row]] = {}
    for row in ledger.rows:
        for factor in row.after:
            if factor.kind not in EXCHANGED:
                found.setdefault(factor, []).append(row)
    axes = []
    for factor, rows in found.items():
        words = factor.words + _only(rows, ledger.rows, trace)
        axes.append(Axis("afterwards", factor.text, words, source=factor.source))
    return axes


def _only(rows: Sequence[Row], every: Sequence[Row], trace: Trace) -> str:
    """Which part of the gradient a factor met, "" if all of it."""
    if len(rows) == len(every):
        return ""
    calls = {row.number for row in rows}
    if all(row in rows for row in every if row.number in calls):
        return f", only of call {', '.join(map(str, sorted(calls)))}"
    sources = {row.term.items for row in rows}
    lines = {trace.sources[source].line for source in sources if source is not None}
    if lines and not any(row.term.items in sources for row in every if row not in rows):
        return f", only of the loss at line {', '.join(map(str, sorted(lines)))}"
    return f", only of {len(rows)} of {len(every)} losses"


# All items of one loss together.


def _are_equal(weights: Sequence[Exact | None]) -> bool:
    return all(is_same(weights[0], weight) for weight in weights)


def _ratio_of(rows: Sequence[Row]) -> str:
    ratio = _ratio(rows)
    return "" if ratio is None else f"max/min {said(ratio)}"


def _ratio(rows: Sequence[Row]) -> Exact | None:
    """The largest weight over the least; None where one of them is not known."""
    if any(_is_uneven(row) for row in rows):
        least, largest = _extremes(rows)
        if least is None or largest is None or least * largest <= 0:
            return None
        return tidy(max(abs(least), abs(largest)) / min(abs(least), abs(largest)), 4e-6)
    sizes: list[Exact] = [-w if w < 0 else w for row in rows if (w := row.weight)]
    return max(sizes) / min(sizes) if sizes else None


def _is_uneven(row: Row) -> bool:
    """Whether the items of one reduction weigh differently."""
    return row.is_uneven or _is_weighted(row)


def _is_weighted(row: Row) -> bool:
    return bool(row.reductions) and row.reductions[-1].kind == "weighted-mean"


def _extremes(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """The least and largest weight of rows whose items differ, with their signs."""
    if not any(_is_uneven(row) for row in rows):
        return None, None
    ends: list[float] = []
    is_known = True
    for row in rows:
        if not _is_uneven(row):
            ends += [float(row.weight)] if row.weight is not None else []
        elif row.largest is not None:
            ends += [row.largest] if row.least is None else [row.least, row.largest]
            is_known = is_known and row.least is not None
        else:
            is_known = False
    if not ends:
        return None, None
    return (min(ends) if is_known else None), max(ends)


def _term_verdict(term: Term, rows: list[Row], ledger: Ledger, trace: Trace) -> TermVerdict:
    every, rows = rows, _once(rows)
    items = sum(row.items for row in rows)
    unknown = next((row.unknown for row in rows if row.unknown), "") or _no_number(rows)
    if unknown or ledger.unknown:
        why = unknown or ledger.unknown
        axis = _calls_axis(rows, None, ledger)
        return TermVerdict(
            term, "unknown", f"not known: {why}", items, None, None, None, "item", None, axis, why,
            tuple(rows),
        )  # fmt: skip
    if _is_empty(rows[0]):
        axis = _calls_axis(rows, None, ledger)
        words = f"nothing: {_left_out(rows[0])}"
        return TermVerdict(
            term, "empty", words, 0, None, None, None, "item", None, axis, rows=tuple(rows)
        )
    whole = total([t for row in rows if (t := row.total) is not None])
    ratio = _ratio(rows)
    is_negated = all(row.weight is not None and row.weight < 0 for row in rows)
    if is_negated and not any(row.is_uneven for row in rows):
        kind, words, unit, unit_weight = _whole([row.flipped() for row in rows], items, -whole)
        words, unit_weight = f"minus {words}", None if unit_weight is None else -unit_weight
    else:
        kind, words, unit, unit_weight = _whole(rows, items, whole)
    words += _inside(rows, trace) + _through(rows)
    least, largest = _extremes(rows)
    verdict = TermVerdict(
        term, kind, words, items, whole,
        rows[0].weight if kind not in ("unequal", "weighted") else None,
        None if ratio is None else float(ratio), unit, unit_weight,
        Axis("backward calls", "-", ""), least=least, largest=largest,
    )  # fmt: skip
    axis = _calls_axis(every, verdict, ledger)
    return replace(verdict, calls=axis, rows=tuple(every))


SENT_AGAIN = "several losses are sent backward again together, over one graph"


def _once(rows: list[Row]) -> list[Row]:
    """Items that several calls sent backward over one graph once, with all of their weight."""
    if not any(row.again for row in rows):
        return rows
    found: dict[tuple[int, int | None, int | None], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.call):
        places = [(order, row.rank, row.replica) for order in row.again]
        sent = [(place, one) for place in places for one in found.get(place, ())]
        if len(sent) == 1 and _are_the_same(row, sent[0][1]):
            ((place, before),) = sent
            found[place].remove(before)
            weights = [w for w in (before.weight, row.weight) if w is not None]
            row = replace(row, weight=total(weights))
        elif sent:
            row = replace(row, unknown=row.unknown or SENT_AGAIN)
        found.setdefault((row.call, row.rank, row.replica), []).append(row)
    return [row for several in found.values() for row in several]


def _are_the_same(row: Row, before: Row) -> bool:
    is_known = row.weight is not None and before.weight is not None
    return is_known and row.items == before.items and not (_is_uneven(row) or _is_uneven(before))


def _no_number(rows: Sequence[Row]) -> str:
    """Why there are no weights where a factor is NaN or infinite."""
    weights = [float(row.weight) for row in rows if row.weight is not None]
    bad = next((weight for weight in weights if not math.isfinite(weight)), None)
    return "" if bad is None else f"it is multiplied by {bad}"


def _whole(rows: Sequence[Row], items: int, whole: Exact) -> tuple[str, str, str, Exact | None]:
    """Kind, words, and the unit with its weight."""
    weight = rows[0].weight
    if any(row.is_uneven for row in rows):
        return _of_uneven(rows, items, whole)
    if not _are_equal([row.weight for row in rows]):
        return "unequal", _unequal_words(rows, whole), "item", None
    assert weight is not None
    if not any(row.reductions for row in rows):
        return _of_values(rows, weight)
    word = reduction_word(rows[0])
    if word == "weighted mean":
        return _of_weighted(rows, items, whole)
    everything = f"all {items:,} items" if items > 1 else "the single item"
    samples = _of_samples(rows)
    if is_same(whole, ONE):
        unit = samples[2:] if samples and samples[0] == "mean" else ("item", weight)
        single = "sum" if items == 1 and word == "sum" else "mean"
        return "mean", f"the {single} over {everything}{_each(rows)}", *unit
    if samples is not None and (samples[0] in ("mean", "sum") or _is_sum(rows)):
        return samples
    if _is_sum(rows):
        return _scaled_sum(weight, whole, f"over {everything}{_each(rows)}", "item")
    unit = samples[2:] if samples else ("item", weight)
    if samples and all(row.samples and row.samples.inside == "sum" for row in rows):
        # Sums of elements that are averaged: "2 x the mean over 8 samples", not 960 x over 3,840.
        return "scaled-mean", *samples[1:]
    words = f"{said(whole)} x the mean gradient, over {everything}{_each(rows)}"
    return "scaled-mean", words, *unit


def _of_uneven(rows: Sequence[Row], items: int, whole: Exact) -> tuple[str, str, str, Exact | None]:
    """Items that weigh differently in one reduction."""
    least, largest = _extremes(rows)
    biggest = largest if least is None or largest is None else max(abs(least), abs(largest))
    size = 0.0 if biggest is None else abs(biggest) * max(items, 1)
    together = tidy(0.0 if abs(float(whole)) <= 1e-6 * size else float(whole), 2e-6)
    of = f"{items:,} items"
    if is_same(together, ONE) or is_same(together, -ONE):
        minus = "" if together > 0 else "minus "
        kind, title = "weighted", f"{minus}the weighted mean over {of}"
    else:
        kind, title = "unequal", f"unequal weights, {said(together)} together: {of}"
    words = f"{title}, which weigh {_from_to(least, largest)}"
    ratio = _ratio(rows)
    words += "" if ratio is None or ratio == 1 else f", max/min {said(ratio)}"
    return kind, words, "item", None


def _from_to(least: float | None, largest: float | None) -> str:
    """from 1/12 to 1/3; up to 1/3."""
    if largest is None:
        return "differently"
    high = said(tidy(largest, 2e-6))
    if least is None:
        return f"up to {high}"
    low = said(tidy(least, 2e-6))
    return high if low == high else f"{low} to {high}"


def _between_ends(least: float | None, largest: float | None) -> str:
    """from 1/12 to 1/3; up to 1/3."""
    if least is None or largest is None:
        return _from_to(least, largest)
    return f"from {said(tidy(least, 2e-6))} to {said(tidy(largest, 2e-6))}"


def _inside(rows: Sequence[Row], trace: Trace) -> str:
    """What is inside the items, after the last reduction: it is no part of their weight."""
    found = [factor for row in rows for factor in row.inside]
    words = ""
    turned = [row for row in rows if sum(f.kind == "sign" for f in row.inside) % 2]
    if turned and len(turned) == len(rows):
        words += f", each with its sign turned{_at_lines(found, 'sign', trace)}"
    own = [row.own for row in rows if any(f.kind == "own" for f in row.inside)]
    if own:
        words += f", each times a number of its own{_at_lines(found, 'own', trace)}"
        known = [spread for spread in own if spread is not None]
        if len(known) == len(rows) == len(own):
            largest = max(spread.largest for spread in known)
            ends = [spread.least for spread in known if spread.least is not None]
            least = min(ends) if len(ends) == len(known) else None
            words += f": with it {_from_to(least, largest)}"
    return words


def _at_lines(factors: Sequence[Factor], kind: str, trace: Trace) -> str:
    """The lines of factors of one kind, in brackets."""
    places = {f.source for f in factors if f.kind == kind and f.source is not None}
    lines = sorted({trace.sources[place].line for place in places if place in trace.sources})
    shown = ", ".join(map(str, lines[:3])) + (" ..." if lines[3:] else "")
    return f" (line{'s' if len(lines) > 1 else ''} {shown})" if lines else ""


def _is_sum(rows: Sequence[Row]) -> bool:
    """Whether nothing in the graph averages."""
    return all(reduction.kind == "sum" for row in rows for reduction in row.reductions)


def _scaled_sum(
    weight: Exact, whole: Exact, over: str, unit: str
) -> tuple[str, str, str, Exact | None]:
    """A sum times a number; said as a mean where that is the rounder number."""
    if is_same(weight, ONE):
        return "sum", f"the sum {over}", unit, weight
    is_rounder = (
        isinstance(weight, Fraction)
        and isinstance(whole, Fraction)
        and whole.denominator < weight.denominator
    )
    words = f"{said(whole)} x the mean" if is_rounder else f"{said(weight)} x the sum"
    return "scaled-sum", f"{words} {over}", unit, weight


def _each(rows: Sequence[Row]) -> str:
    samples = [row.samples for row in rows]
    if any(s is None or s.each < 2 for s in samples):
        return ""
    each = {s.each for s in samples if s is not None}
    count = sum(s.count for s in samples if s is not None)
    return f" ({count} samples of {each.pop()} elements)" if len(each) == 1 else ""


def _of_samples(rows: Sequence[Row]) -> tuple[str, str, str, Exact | None] | None:
    """The same in samples, where their elements are reduced in one way."""
    samples = [row.samples for row in rows]
    if any(s is None or s.each < 2 for s in samples):
        return None
    known = [s for s in samples if s is not None]
    if len({(s.each, s.inside) for s in known}) > 1:
        return None
    first, row = known[0], rows[0]
    assert row.weight is not None
    weight = first.weight * (row.weight / row.weight_at_loss) if row.weight_at_loss else None
    if weight is None:
        return None
    count = sum(s.count for s in known)
    unit = f"sample (the {first.inside} of its {first.each} elements)"
    over = f"over all {count} samples, each the {first.inside} of its {first.each} elements"
    if is_same(weight * count, ONE):
        return "mean", f"the mean {over}", unit, weight
    return _scaled_sum(weight, weight * count, over, unit)


def _through(rows: Sequence[Row]) -> str:
    """Functions of a number that the loss passed: their derivative depends on the data."""
    names = {f.words: None for row in rows for f in row.loss if f.kind in ("measured", "opaque")}
    if not names:
        return ""
    return f" (through {', '.join(names)}, which depends on the data)"


def _of_values(rows: Sequence[Row], weight: Exact) -> tuple[str, str, str, Exact | None]:
    """Losses that were single values to begin with."""
    count = sum(row.items for row in rows)
    times = "" if is_same(weight, ONE) else f"{said(weight)} x "
    if count == 1:
        kind = "scaled-mean" if times else "mean"
        made = f" ({rows[0].made}: no sum of items)" if rows[0].made else ""
        return kind, f"{times}the loss's own gradient{made}", "loss", weight
    if is_same(weight * count, ONE):
        return "mean", f"the mean of {count:,} losses", "loss", weight
    return "scaled-mean", f"{times}the sum of {count:,} losses", "loss", weight


def _of_weighted(
    rows: Sequence[Row], items: int, whole: Exact
) -> tuple[str, str, str, Exact | None]:
    least = min((row.least for row in rows if row.least is not None), default=None)
    largest = max((row.largest for row in rows if row.largest is not None), default=None)
    times = "" if is_same(whole, ONE) else f"{said(whole)} x "
    words = f"{times}the weighted mean over {items:,} items"
    if largest is not None:
        words += f", which weigh {_from_to(least, largest)}"
    return "weighted", words, "item", None


def _unequal_words(rows: Sequence[Row], whole: Exact) -> str:
    weights = sorted((abs(row.weight), row.weight) for row in rows if row.weight is not None)
    least, largest = weights[0][1], weights[-1][1]
    if len({weight > 0 for size, weight in weights if size}) > 1:
        least, largest = min(w for _, w in weights), max(w for _, w in weights)
    counts = {row.items for row in rows}
    is_mean = is_same(whole, ONE) and len(counts) > 1
    if any(f.kind == "measured" for row in rows for f in row.loss):
        return f"an item weighs from {said(least)} to {said(largest)}"
    title = "a mean of means, not the mean" if is_mean else "unequal weights"
    words = f"{title}: an item weighs from {said(least)} to {said(largest)}"
    if any(_is_uneven(row) for row in rows):
        words = f"{title}: an item weighs {_between_ends(*_extremes(rows))}"
    ratio = _ratio(rows) if all(row.weight for row in rows) else None
    return words if ratio is None else f"{words}, max/min {said(ratio)}"


def _sentence(ledger: Ledger, terms: Sequence[TermVerdict]) -> str:
    if not terms:
        return f"not known: {ledger.unknown}"
    words = list(dict.fromkeys(term.words for term in terms))
    if len(terms) == 1:
        return words[0]
    if len(words) == 1:
        return f"{len(terms)} losses added, each {words[0]}"
    return f"{len(terms)} losses added: " + "; ".join(term.words for term in terms)
