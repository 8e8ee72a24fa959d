"""What `diff` says on a terminal: proportional or not, the steps, where they part, the setup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from tracer.analysis.diff.difference import Difference, Exhibit
from tracer.analysis.diff.origin import Origin
from tracer.analysis.diff.partners import Partners
from tracer.analysis.diff.relation import Cluster, Cosine
from tracer.analysis.diff.sides import Side
from tracer.analysis.diff.stages import Cell, Parting, Stage, Weighing
from tracer.analysis.diff.timeline import Comparison, Match
from tracer.analysis.diff.updates import Updates
from tracer.analysis.exact import is_same, said
from tracer.analysis.verdicts import TermVerdict
from tracer.semantics.effects import Exact
from tracer.views.diff_headline import headline
from tracer.views.diff_words import (
    MOST_NAMES,
    REDUCED,
    cancels,
    factors_before,
    names_of,
    numbers_of,
    times_of,
    when_of,
    word_of,
)
from tracer.views.explain import Lines
from tracer.views.labels import listed, number, plural
from tracer.views.terminal import Ink, printable, table

__all__ = ["difference_text", "gradient_sentences", "parting_sentences"]

MOST_LONE = 3
MOST_TABLES = 3
MOST_WEIGHINGS = 12
LINEAR = ("SGD", "ASGD")

STAGES = {
    "in the loss": "in the loss", "afterwards": "behind the loss", "items": "at the items",
    "replicas": "at the replicas", "backward calls": "at the backward calls",
    "ranks": "at the ranks",
}  # fmt: skip
NOT_COMPARED = {
    "zero": "zero in both",
    "rounding": "nothing but rounding in both (their sums cancel)",
    "absent": "without a gradient in both",
    "nonfinite": "not finite in both",
    "unknown": "not measured",
}


def difference_text(found: Difference, ink: Ink) -> str:
    """The whole answer, in the order in which one asks."""
    lines = (Lines(found.a.trace), Lines(found.b.trace))
    blocks = [
        _runs(found, ink),
        [ink.bold(printable(headline(found)))],
        _section("gradients", gradient_sentences(found), ink),
        _section("steps", _step_sentences(found), ink),
        _section("where they part", parting_sentences(found, lines), ink),
        *_tables(found, lines, ink),
        _section("what else differs", _settings(found), ink, is_table=True),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _runs(found: Difference, ink: Ink) -> list[str]:
    rows = [(name, side.label, _run(side)) for name, side in (("A", found.a), ("B", found.b))]
    return [f"{ink.bold(line[:1])}{line[1:]}" for line in _columns(rows)]


def _run(side: Side) -> str:
    info = side.trace.info
    return " ".join(info.command) or info.script


def _section(title: str, rows: Sequence[str], ink: Ink, *, is_table: bool = False) -> list[str]:
    shown = rows if is_table else [printable(row) for row in rows]
    return [ink.bold(title), *(f"  {row}" for row in shown)] if rows else []


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns; names in them come from the script, and may steer no terminal."""
    return table([[printable(cell) for cell in row] for row in rows]).splitlines() if rows else []


# Gradients.


def gradient_sentences(found: Difference) -> list[str]:
    """Proportional or not, by which factor, for how many parameters and at which moments."""
    if found.shown is None:
        return _unmatched(found.partners)
    shown = found.shown
    sentences = list(_relations(shown, _span(found, shown), _samples(found)))
    if shown is not found.moments[0]:
        first = found.moments[0]
        before = found.moments[found.moments.index(shown) - 1]
        span = (
            f" {numbers_of(first)}"
            if before is first
            else f"s {numbers_of(first)} to {numbers_of(before)}"
        )
        if not _is_as_before(found, shown):
            sentences.insert(0, f"{_relation_before(found, shown)} at {word_of(first)}{span}")
    sentences += _later(found)
    return sentences + _unmatched(found.partners)


def _relations(shown: Comparison, span: str, samples: int | None) -> Iterator[str]:
    total = len(shown.matches)
    for cluster in shown.clusters:
        members = [shown.matches[n] for n in cluster.members]
        equation = _equation(cluster.factor)
        names = "" if len(members) == total else f" ({names_of(members)})"
        count = f"{_of(len(members), total)}{names}"
        yield f"{equation} for {count}, {span}{_precision(members)}{_coincidence(cluster, samples)}"
    near = shown.of_kind("near")
    if near:
        off = max(match.relation.off for match in near)
        yield (
            f"nearly a multiple for {len(near)} of {total} ({names_of(near)}), apart by up to "
            f"{off:.1g} of their norm: more than one rounding makes, {span}"
        )
    yield from _different(shown, total, span)
    for kind, one, other in (("only-a", "A", "B"), ("only-b", "B", "A")):
        found = shown.of_kind(kind)
        zero = [match for match in found if not all(match.relation.norms)]
        rounded = [match for match in found if all(match.relation.norms)]
        for words, those in (("zero", zero), ("nothing but rounding (its sum cancels)", rounded)):
            if those:
                count = plural(len(those), "parameter")
                yield f"{words} in {other}, but not in {one}: {count} ({names_of(those)})"
        infinite = shown.of_kind(f"nonfinite-{other.lower()}")
        if infinite:
            count = plural(len(infinite), "parameter")
            yield f"not finite in {other}, but in {one}: {count} ({names_of(infinite)})"
    for side, other in (("b", "A"), ("a", "B")):
        absent = shown.of_kind(f"absent-{side}")
        if absent:
            unheld = [m for m in absent if not (m.a if side == "a" else m.b).is_held]
            rest = [match for match in absent if match not in unheld]
            for what, those, why in (
                ("a gradient", rest, _absence(rest, side)),
                ("taken by a step", unheld, "not held by the optimizer"),
            ):
                if those:
                    yield (
                        f"{what} in {other} only: {plural(len(those), 'parameter')} "
                        f"({names_of(those)}); {why} in {side.upper()}"
                    )
    for kind, words in NOT_COMPARED.items():
        others = shown.of_kind(kind)
        if others:
            yield f"{words}: {plural(len(others), 'parameter')} ({names_of(others)})"


def _samples(found: Difference) -> int | None:
    """How many samples a step has, if it has as many in both."""
    for exhibit in found.exhibits[:1]:
        counts = {
            sum(row.items if row.samples is None else row.samples.count for row in term.rows)
            for parting in exhibit.partings for term in (parting.a, parting.b)
        }  # fmt: skip
        return counts.pop() if len(counts) == 1 else None
    return None


def _coincidence(cluster: Cluster, samples: int | None) -> str:
    """Said where a factor is the size of the batch, or one over it."""
    if not samples or samples < 2 or cluster.factor not in (samples, Fraction(1, samples)):
        return ""
    return f"; {samples} is the number of samples in a step"


def _of(count: int, total: int) -> str:
    return f"{count} of {plural(total, 'parameter')}"


def _absence(matches: Sequence[Match], side: str) -> str:
    """Why there is no gradient: recorded only for those that an optimizer holds."""
    for match in matches:
        step = (match.a if side == "a" else match.b).step
        buffer = match.pair.a if side == "a" else match.pair.b
        groups = step.groups if step is not None else ()
        if not any(buffer in group.get("frozen", ()) for group in groups):
            return "not reached"
    return "frozen"


def _different(shown: Comparison, total: int, span: str) -> Iterator[str]:
    different = shown.of_kind("different")
    if not different:
        return
    cosine = shown.cosine
    of_all = "" if cosine is None else f"; cosine of all gradients together {_cosine(cosine)}"
    worst = min(
        (m for m in different if m.relation.cosine is not None and m.relation.elements > 1),
        key=lambda m: m.relation.cosine.value if m.relation.cosine else 0.0,
        default=None,
    )
    least = ""
    if worst is not None and worst.relation.cosine is not None and len(different) > 1:
        least = f", least {_cosine(worst.relation.cosine)} of {worst.pair.name_a}"
    count = _of(len(different), total)
    yield f"not proportional for {count}, {span}{of_all}{least}"


def _cosine(cosine: Cosine) -> str:
    if cosine.error < 5e-5:
        return f"{cosine.value:.4g}"
    return f"{cosine.value:.2f} ± {max(cosine.error, 0.01):.2f}"


def _equation(factor: Exact) -> str:
    if factor == 1:
        return "B = A"
    about = "" if isinstance(factor, Fraction) else "about "
    return f"B = {about}{said(factor)} x A"


def _precision(members: Sequence[Match]) -> str:
    """Said where it is no more than a reduced precision allows."""
    off = max(match.relation.off for match in members)
    return (
        f"; apart by up to {off:.1g} of the norm, as reduced precision rounds"
        if off > REDUCED
        else ""
    )


def _relation_before(found: Difference, shown: Comparison) -> str:
    factors = factors_before(found, shown)
    return _equation(factors[0]) if len(factors) == 1 else "proportional, by changing factors,"


def _later(found: Difference) -> list[str]:
    """What becomes of a relation after the moment shown."""
    shown = found.shown
    assert shown is not None
    place = found.moments.index(shown)
    rest = found.moments[place + 1 :]
    parted = next((moment for moment in rest if not moment.is_like(shown)), None)
    if parted is None:
        return []
    why = _why_later(found, shown)
    cosine = parted.cosine
    how = f" (cosine {_cosine(cosine)})" if cosine and not parted.is_proportional else ""
    return [f"from {when_of(parted)} on they relate otherwise{how}{why}"]


def _why_later(found: Difference, shown: Comparison) -> str:
    if all(update.updates.is_same for update in found.updates) and shown.is_proportional:
        return ", though the steps before were the same"
    return ": the steps before took the weights apart" if shown.is_step else ""


def _unmatched(found: Partners) -> list[str]:
    sentences = []
    for how, words in (("end", "the end of their names"), ("shape", "shape, not by name")):
        others = [pair for pair in found.pairs if pair.how == how]
        if others:
            names = listed([f"{p.name_a} - {p.name_b}" for p in others], MOST_NAMES)
            sentences.append(f"matched by {words}: {len(others)} ({names})")
    for side, alone in (("A", found.only_a), ("B", found.only_b)):
        if alone:
            names = listed(alone, MOST_NAMES)
            sentences.append(f"only in {side}: {plural(len(alone), 'parameter')} ({names})")
    for name, one, other in found.reshaped[:MOST_NAMES]:
        sentences.append(f"{name} has shape {list(one)} in A and {list(other)} in B")
    return sentences


def _span(found: Difference, shown: Comparison) -> str:
    """At step 1; at steps 1 to 4, where they all relate alike."""
    place = found.moments.index(shown)
    first = found.moments[0] if _is_as_before(found, shown) else shown
    last = shown
    for moment in found.moments[place + 1 :]:
        if not moment.is_like(shown):
            break
        last = moment
    if last is first:
        return f"at {when_of(shown)}"
    return f"at {word_of(shown)}s {numbers_of(first)} to {numbers_of(last)}"


def _is_as_before(found: Difference, shown: Comparison) -> bool:
    """Whether gradients relate at a moment as they did at all moments before it."""
    return all(m.is_like(shown) for m in found.moments[: found.moments.index(shown)])


def _absences(comparison: Comparison) -> list[Match]:
    return comparison.of_kind("absent-a", "absent-b")


# Steps.


def _step_sentences(found: Difference) -> list[str]:
    sentences: dict[str, int] = {}
    for update in found.updates:
        sentence = _step_sentence(update.updates)
        if sentence:
            sentences[sentence] = sentences.get(sentence, 0) + len(update.members)
    total = sum(sentences.values())
    return [
        sentence if count == total else f"{plural(count, 'parameter')}: {sentence}"
        for sentence, count in sentences.items()
    ]


def _step_sentence(updates: Updates) -> str:
    if updates.kind == "none":
        return ""
    if updates.kind == "unlike":
        one, other = (kind or "no optimizer" for kind in updates.kinds)
        return f"A steps by {one}, B by {other}: no factor compares their steps"
    parts = [_rate(updates), _decay(updates), _coupled(updates), _momentum(updates)]
    if updates.kind == "adaptive":
        parts.insert(0, _cancelled(updates))
    elif updates.kind == "unknown":
        parts.insert(0, f"what {updates.kinds[0]} makes of a factor is not known here")
    else:
        parts.insert(0, _stride(updates))
    return "; ".join(part for part in parts if part)


def _stride(updates: Updates) -> str:
    if updates.ratio is None:
        return ""
    if is_same(updates.ratio, Fraction(1)):
        what = "the same" if updates.is_same else "gradient x lr the same"
        if updates.gradient == 1:
            return what
        return f"{what}: gradient x {said(updates.gradient)}, lr x {said(_rates(updates))}"
    return f"{said(updates.ratio)} x as far in B"


def _rates(updates: Updates) -> Exact | None:
    if updates.ratio is None or not updates.gradient:
        return None
    return updates.ratio / updates.gradient


def _rate(updates: Updates) -> str:
    one, other = updates.lr
    if one is None or other is None:
        return "lr not known"
    if one == other:
        return f"lr {number(one)} in both"
    return f"lr {number(one)} in A, {number(other)} in B"


def _decay(updates: Updates) -> str:
    one, other = updates.decay
    if not one and not other:
        return ""
    if abs(one - other) <= 1e-9 * max(one, other):
        return f"decay of {number(one)} x weight in both"
    return f"decay of {number(one)} x weight in A, {number(other)} in B"


def _coupled(updates: Updates) -> str:
    """Decay that is added to a gradient before its size is divided out."""
    one, other = updates.coupled
    if not one and not other:
        return ""
    if one != other:
        return (
            f"L2 decay of {number(one)} x weight, added to the gradient, in A, {number(other)} in B"
        )
    told = f"L2 decay of {number(one)} x weight, added to the gradient, in both"
    if updates.gradient in (None, 1):
        return told
    return f"{told}: beside a gradient that is {times_of(updates.gradient)}"


def _momentum(updates: Updates) -> str:
    one, other = updates.momentum
    if not one and not other:
        return ""
    if one == other:
        return f"momentum {number(one)} in both"
    sums = [f"{number(m)} (sums up to {number(1 / (1 - m))} x)" if m < 1 else number(m)
            for m in (one, other)]  # fmt: skip
    return f"momentum {sums[0]} in A, {sums[1]} in B"


def _cancelled(updates: Updates) -> str:
    kind = updates.kinds[0]
    if updates.gradient is None:
        return f"{kind} divides by the size of the gradient: only its direction counts"
    if updates.gradient == 1:
        return "the same" if updates.is_same else f"{kind} in both"
    return (
        f"{kind} divides by the size of the gradient: the factor {said(updates.gradient)} cancels"
        f"{cancels(updates).removeprefix(f'{kind} cancels')}"
    )


# Where they part.


def parting_sentences(found: Difference, lines: tuple[Lines, Lines]) -> list[str]:
    """The first factor at which the ledgers part, or the fact in which the runs differ."""
    if found.shown is not None and found.shown.is_unmeasured:
        return []
    sentences = [_origin(origin, lines) for origin in found.origins]
    told = [list(_parted(exhibit, lines)) for exhibit in found.exhibits]
    is_shared = all(one == told[0] for one in told)
    for exhibit, those in zip(found.exhibits, told, strict=True):
        whose = "" if is_shared else f"{_whose(exhibit)}: "
        sentences += [f"{whose}{sentence}" for sentence in those]
    return list(dict.fromkeys(sentences))


def _origin(origin: Origin, lines: tuple[Lines, Lines]) -> str:
    return origin.words + _at((origin.source_a, origin.source_b), lines)


def _at(sources: tuple[int | None, int | None], lines: tuple[Lines, Lines]) -> str:
    places = [
        f"{lines[side].place(source)} in {name}"
        for side, (name, source) in enumerate(zip("AB", sources, strict=True))
        if source is not None
    ]
    return f"   ({', '.join(places)})" if places else ""


def _parted(exhibit: Exhibit, lines: tuple[Lines, Lines]) -> Iterator[str]:
    distinct: dict[object, Parting] = {}
    for parting in exhibit.partings:
        distinct.setdefault(_signature(parting), parting)
    for parting in list(distinct.values())[:MOST_TABLES]:
        of = "" if len(distinct) == 1 else f"{_loss(parting, lines)}: "
        if parting.unknown:
            yield f"{of}{parting.unknown}{_at(parting.unknown_at, lines)}"
        if parting.weighings:
            yield f"{of}{_unequal(parting.weighings)}"
        elif parting.spreads is not None:
            one, other = parting.spreads
            yield f"{of}items weigh differently: {one} in A, {other} in B"
        elif parting.first is not None:
            yield f"{of}first {_stage(parting.first, lines)}"
            yield from _balance(exhibit, parting)
    counts = [len(verdict.terms) for verdict in exhibit.verdicts]
    if counts[0] != counts[1]:
        yield f"losses that are added: {counts[0]} in A, {counts[1]} in B"
        yield from _lone(exhibit, lines)


def _lone(exhibit: Exhibit, lines: tuple[Lines, Lines]) -> Iterator[str]:
    """The losses that have no like in the other run, the first few of each."""
    for side, name in enumerate("AB"):
        beside = {id((parting.a, parting.b)[side]) for parting in exhibit.partings}
        terms = exhibit.verdicts[side].terms
        for term in [term for term in terms if id(term) not in beside][:MOST_LONE]:
            text, place = (
                lines[side].text(term.term.source, 36),
                lines[side].place(term.term.source),
            )
            at = f"   ({place})" if place else ""
            yield f"only {name} has {text or 'a loss'}: {term.words}{at}"


def _loss(parting: Parting, lines: tuple[Lines, Lines]) -> str:
    """The line that tells a loss from the others: in B, whose trace is the one to be understood."""
    term = parting.b.term
    return lines[1].text(term.source, 36) or lines[1].place(term.source) or "a loss"


def _whose(exhibit: Exhibit) -> str:
    return f"{exhibit.match.pair.name_a}" + (
        f" and {len(exhibit.members) - 1} more" if len(exhibit.members) > 1 else ""
    )


def _stage(stage: Stage, lines: tuple[Lines, Lines]) -> str:
    a, b = _cell(stage.a, lines[0]), _cell(stage.b, lines[1])
    ratio = "" if stage.ratio is None else f" => x {said(stage.ratio)}"
    where = STAGES[stage.name]
    return f"{where}: {a or 'nothing'} in A, {b or 'nothing'} in B{ratio}"


def _cell(cell: Cell, lines: Lines) -> str:
    if not cell.words:
        return ""
    place = _place(cell, lines)
    return f"{cell.words} ({place})" if place else cell.words


def _place(cell: Cell, lines: Lines) -> str:
    if cell.between is not None:
        ends = [lines.place(source) for source in cell.between if source is not None]
        return f"between {' and '.join(ends)}" if len(ends) == 2 else ""
    return ", ".join(map(lines.place, (cell.source, *cell.others)))


def _balance(exhibit: Exhibit, parting: Parting) -> Iterator[str]:
    parted = parting.parted
    ratio = parting.ratio
    if ratio is None:
        return
    if len(parted) > 1:
        others = ", ".join(f"x {said(s.ratio)} {STAGES[s.name]}" for s in parted[1:])
        factors = " x ".join(said(stage.ratio) for stage in parted)
        comes = "they cancel" if is_same(ratio, Fraction(1)) else "together"
        left = "" if is_same(ratio, Fraction(1)) else _remaining(parted, ratio)
        yield f"then {others}; {comes}: {factors} = {said(ratio)}{left}"
    if exhibit.explains is False:
        measured = exhibit.match.relation.factor
        yield (
            f"this does not explain all: the ledgers say x {said(ratio)}, the gradients "
            f"x {said(measured)}"
        )


def _remaining(parted: Sequence[Stage], ratio: Exact) -> str:
    """The one stage that is left when the others cancel one another, if there is one."""
    alone = [stage for stage in parted if stage.ratio is not None and is_same(stage.ratio, ratio)]
    if len(alone) != 1 or len(parted) < 3:
        return ""
    return f"; what is left is {STAGES[alone[0].name]}"


def _unequal(weighings: Sequence[Weighing]) -> str:
    ordered = sorted(weighings, key=lambda w: abs(float(w.ratio)))
    least, most = ordered[0], ordered[-1]
    is_ranked = len({w.rank for w in weighings}) > 1
    return (
        f"items weigh differently: one of {_where(most, is_ranked)} "
        f"({plural(most.items, 'item')}) weighs "
        f"{said(most.ratio)} x as much in B as in A, one of {_where(least, is_ranked)} "
        f"({plural(least.items, 'item')}) {said(least.ratio)} x"
    )


def _where(weighing: Weighing, is_ranked: bool) -> str:
    return f"{f'rank {weighing.rank}, ' if is_ranked else ''}call {weighing.call}"


# The ledgers beside each other.


def _tables(found: Difference, lines: tuple[Lines, Lines], ink: Ink) -> Iterator[list[str]]:
    shown: set[object] = set()
    for exhibit in found.exhibits:
        for parting in exhibit.partings:
            key = _signature(parting)
            if key in shown or not (parting.parted or parting.is_unequal):
                continue
            if len(shown) == MOST_TABLES:
                return
            shown.add(key)
            alike = [p for p in exhibit.partings if _signature(p) == key]
            yield _ledger(exhibit, parting, len(alike), lines, ink)


def _signature(parting: Parting) -> object:
    parted = tuple((s.name, s.a.words, s.b.words, s.ratio) for s in parting.parted)
    return parted, tuple(w.ratio for w in parting.weighings), parting.spreads


def _ledger(
    exhibit: Exhibit, parting: Parting, alike: int, lines: tuple[Lines, Lines], ink: Ink
) -> list[str]:
    """Stage by stage, from the items to what one of them moves."""
    rows: list[tuple[str, ...]] = [("", "A", "", "B", "", "B / A")]
    rows += [
        (
            stage.name, stage.a.words or "-", _place(stage.a, lines[0]),
            stage.b.words or "-", _place(stage.b, lines[1]),
            "?" if stage.ratio is None else f"x {said(stage.ratio)}" if stage.parts else "",
        )
        for stage in parting.stages
    ]  # fmt: skip
    rows += _outcome(exhibit, parting)
    drawn = _columns(rows)
    text = _loss(parting, lines)
    of = f", {alike} losses alike, the first: {text}" if alike > 1 else f", {text}"
    title = ink.bold(printable(f"the ledgers of {_whose(exhibit)}{of}"))
    weighed = _weighings(parting.weighings, _lrs(exhibit))
    return [title, *(f"  {row}" for row in (ink.dim(drawn[0]), *drawn[1:], *weighed))]


def _outcome(exhibit: Exhibit, parting: Parting) -> Iterator[tuple[str, ...]]:
    """What one item weighs in the end, and what that moves."""
    a, b = parting.a, parting.b
    if parting.weighings:
        return
    if parting.spreads is not None:
        yield ("= items weigh", parting.spreads[0], "", parting.spreads[1], "", "")
        return
    if a.items != b.items and a.total is not None and b.total is not None and a.total:
        is_factor = exhibit.match.relation.kind in ("multiple", "near")
        whole = f"x {said(b.total / a.total)}" if is_factor else ""
        yield ("= all items weigh", said(a.total), "", said(b.total), "", whole)
        return
    unit, one, other = _unit(a, b)
    if one is None or other is None:
        return
    ratio = other / one if unit != "unit" and one else None
    yield (
        f"= one {unit} weighs", said(one), "", said(other), "",
        "?" if ratio is None else f"x {said(ratio)}",
    )  # fmt: skip
    moves = [_moved(exhibit, weight, which) for weight, which in ((one, 0), (other, 1))]
    if moves[0] is not None and moves[1] is not None:
        same = unit != "unit" and moves[0][1]
        quotient = "?" if not same else f"x {number(moves[1][1] / moves[0][1])}"
        yield (f"x lr: one {unit} moves", moves[0][0], "", moves[1][0], "", quotient)


def _unit(a: TermVerdict, b: TermVerdict) -> tuple[str, Exact | None, Exact | None]:
    """What weighs so much in both; the mean of a sample's elements is no sum of them."""
    (one, _, of), (other, _, of_other) = (term.unit.partition(" ") for term in (a, b))
    if one == other == "sample" and of.split()[:2] != of_other.split()[:2]:
        return "element", a.rows[0].weight, b.rows[0].weight
    return one if one == other else "unit", a.unit_weight, b.unit_weight


def _moved(exhibit: Exhibit, weight: Exact, which: int) -> tuple[str, float] | None:
    match = exhibit.match
    step = (match.a, match.b)[which].step
    buffer = (match.pair.a, match.pair.b)[which]
    groups = step.groups if step is not None and step.kind in LINEAR else ()
    group = next((g for g in groups if buffer in g.get("buffers", ())), {})
    lr = group.get("lr")
    if not isinstance(lr, int | float):
        return None
    moved = lr * float(weight)
    return f"{number(lr)} x {said(weight)} = {number(moved)}", moved


def _lrs(exhibit: Exhibit) -> float | None:
    """By how much the lr of B is larger, where a step is lr x gradient in both."""
    one, other = exhibit.match.a.step, exhibit.match.b.step
    pair = exhibit.match.pair
    rates = []
    for step, buffer in ((one, pair.a), (other, pair.b)):
        groups = step.groups if step is not None and step.kind in LINEAR else ()
        rates += [g.get("lr") for g in groups if buffer in g.get("buffers", ())][:1]
    known = [float(rate) for rate in rates if isinstance(rate, int | float) and rate]
    return known[1] / known[0] if len(known) == 2 and known[0] != known[1] else None


def _weighings(found: Sequence[Weighing], lrs: float | None) -> list[str]:
    """What items weigh in both; with the lr, if that is not the same, what they move."""
    if not found:
        return []
    is_ranked = len({w.rank for w in found}) > 1
    rows: list[tuple[str, ...]] = [("items of", "items", "an item in A", "in B", "B / A")]
    rows += [
        (_where(w, is_ranked), str(w.items), said(w.a), said(w.b), said(w.ratio))
        for w in found[:MOST_WEIGHINGS]
    ]
    if lrs is not None:
        moved = [f"x {number(lrs * float(w.ratio))}" for w in found[:MOST_WEIGHINGS]]
        ends = [f"with the lr (x {number(lrs)})", *moved]
        rows = [(*row, end) for row, end in zip(rows, ends, strict=True)]
    more = len(found) - MOST_WEIGHINGS
    return [*_columns(rows), *([f"... {more} more"] if more > 0 else [])]


def _settings(found: Difference) -> list[str]:
    rows = [(s.name, s.a, s.b) for s in found.settings]
    return _columns([("", "A", "B"), *rows]) if rows else []
