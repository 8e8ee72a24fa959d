"""What `explain` says on a terminal: the answer in words first, then the books behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress

from tracer.analysis.axis import Axis
from tracer.analysis.balance import Imbalance
from tracer.analysis.chain import Link, Links
from tracer.analysis.exact import said
from tracer.analysis.explain import Explanation, Group, Overview
from tracer.analysis.history import Entry
from tracer.analysis.ledger import Row
from tracer.analysis.notes import Note, Optimizer
from tracer.analysis.rankaxis import named_ranks
from tracer.analysis.shares import Share, TermShare
from tracer.analysis.strand import Factor
from tracer.analysis.verdicts import TermVerdict
from tracer.tracefile import Trace
from tracer.views.labels import clipped, listed, number, operator, plural, short_line
from tracer.views.terminal import Ink, printable, table

__all__ = [
    "Lines",
    "answers_text",
    "explanation_text",
    "notes_text",
    "options_text",
    "overview_text",
    "term_effect",
    "term_label",
]

MOST_LINKS = 24
MOST_PARTS = 4
MOST_ROWS = 16
MOST_ENTRIES = 16
MOST_PARAMETERS = 40
MOST_FILLS = 12
MOST_ANSWERS = 8
LOUD = ("SUM", "MEAN", "UNEQUAL", "?")


class Lines:
    """Source lines of a trace as text."""

    def __init__(self, trace: Trace) -> None:
        self._sources = trace.sources

    def place(self, source: int | None) -> str:
        """train.py:52"""
        found = self._sources.get(source) if source is not None else None
        return printable(short_line(found.file, found.line)) if found else ""

    def places(self, sources: Sequence[int | None], most: int = 3) -> str:
        """train.py:52, 53; of more files than one each with its name."""
        found = list(dict.fromkeys(place for source in sources if (place := self.place(source))))
        file = found[0].rpartition(":")[0] if found else ""
        shown = [place.removeprefix(f"{file}:") if at else place for at, place in enumerate(found)]
        return f"{', '.join(shown[:most])}{' ...' if shown[most:] else ''}"

    def text(self, source: int | None, most: int = 40) -> str:
        """The line as it stood when it ran, "" where its file was not there."""
        found = self._sources.get(source) if source is not None else None
        return clipped(found.text.strip(), most) if found else ""

    def callers(self, source: int | None) -> list[int]:
        """The line and those that called it, innermost first."""
        found: list[int] = []
        while source is not None and source in self._sources and source not in found:
            found.append(source)
            source = self._sources[source].caller
        return found


def explanation_text(
    found: Sequence[Explanation], trace: Trace, ink: Ink, terms: bool = False
) -> str:
    """One parameter: the answer, then (of its last or only filling) everything behind it.

    `terms` adds how much comes from each term of the loss.
    """
    lines = Lines(trace)
    shown = found[-1]
    blocks = [_fillings(found, lines, ink)] if len(found) > 1 else []
    blocks.append(_headed(shown, lines, ink))
    details = [
        _section("items", _rows_table(shown, lines), ink),
        _section("terms of the loss", _terms_table(shown, lines) if terms else [], ink),
        _section("what happened to the buffer", _history_table(shown, lines), ink),
        _section("the way of the gradient", _chain_table(shown, lines), ink),
        _section("balance", _balance(shown), ink),
    ]
    parts = [*blocks, *(part for part in details if part)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _fillings(found: Sequence[Explanation], lines: Lines, ink: Ink) -> list[str]:
    """A run without steps: what each filling of the buffer came to, in a line each."""
    times = f"filled {len(found):,} times, not consumed by a torch optimizer"
    head = f"{ink.bold(_clean(found[0].name))}   {times}"
    rows = []
    for one in found[:MOST_FILLS]:
        axes = [axis for axis in one.verdict.axes if axis.name == "items"]
        source = axes[0].source if axes else None
        calls = sorted({row.number for row in one.ledger.rows})
        name = f"call {calls[0]}" if len(calls) == 1 else f"calls {_range(calls)}"
        replicas = one.ledger.replicas
        words = one.verdict.words + (f", {replicas} replicas added" if replicas > 1 else "")
        rows.append((name, f"|grad| {number(one.ledger.norm)}", words,
                     lines.text(source), lines.place(source)))  # fmt: skip
    drawn = [f"  {row}" for row in _columns(rows)]
    left = len(found) - MOST_FILLS
    return [head, *drawn, *([f"  ... {left:,} more"] if left > 0 else [])]


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}-{numbers[-1]}" if numbers else "?"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns; names in them come from the script, and may steer no terminal."""
    return table([[printable(cell) for cell in row] for row in rows]).splitlines() if rows else []


def _section(title: str, rows: list[str], ink: Ink) -> list[str]:
    return [ink.bold(title), *(f"  {row}" for row in rows)] if rows else []


def _headed(one: Explanation, lines: Lines, ink: Ink) -> list[str]:
    head = f"{ink.bold(_clean(one.name))}   |grad| {number(one.ledger.norm)} {_when(one, lines)}"
    if one.balance is not None:
        head += f"   {_balanced(one)}"
    axes = _axes_table(one.verdict.axes, lines, ink)
    return [head, *axes, *_conclusion(one, lines, ink)]


def _when(one: Explanation, lines: Lines) -> str:
    step = one.ledger.step
    if step is not None:
        place = lines.place(step.source)
        return f"at step {step.step}" + (f" ({place})" if place else "")
    calls = [row.number for row in one.ledger.rows]
    after = f"after backward call {max(calls)}" if calls else "at the end"
    return f"{after}, not consumed by an optimizer"


def _clean(name: str) -> str:
    return printable(name)


def _balanced(one: Explanation) -> str:
    error = one.balance
    if not error:
        return "balanced exactly"
    return f"{'balanced to' if one.is_balanced else 'NOT balanced: off by'} {error:.0e}"


def _axes_table(
    axes: Sequence[Axis], lines: Lines, ink: Ink, members: Sequence[Explanation] = ()
) -> list[str]:
    """One row for each axis; of `members` whose lines differ the text of the first, all places."""
    rows = []
    previous = ""
    for position, axis in enumerate(axes):
        name = axis.name if axis.name != previous else ""
        previous = axis.name
        sources = {one.verdict.axes[position].source: None for one in members} or {
            axis.source: None
        }
        rows.append((name, axis.verdict, axis.words, axis.note, lines.text(axis.source),
                     lines.places(list(sources))))  # fmt: skip
    drawn = _columns(rows)
    return [f"  {_loud(line, axis, ink)}" for line, axis in zip(drawn, axes, strict=True)]


def _loud(line: str, axis: Axis, ink: Ink) -> str:
    return ink.red(line) if axis.verdict in LOUD else line


def _conclusion(one: Explanation, lines: Lines, ink: Ink) -> list[str]:
    terms = one.verdict.terms
    if len(terms) > 1:
        found = [ink.bold(f"  => {len(terms)} losses added")]
        rows = [(term_label(t, terms, lines), t.words, term_effect(one, t)) for t in terms]
        found += [f"     {row}" for row in _columns(rows)]
    else:
        found = [ink.bold(f"  => {printable(one.verdict.words)}.")]
        told = [term for term in terms if term.unit_weight is not None]
        found += [f"     {printable(_sentence(one, term))}" for term in told]
    return [*found, *_notes(one.notes, lines)]


def _notes(notes: Sequence[Note], lines: Lines) -> list[str]:
    told = [(note.words, lines.place(note.source)) for note in notes]
    return [f"     {printable(words)}{f'  ({place})' if place else ''}" for words, place in told]


def term_label(term: TermVerdict, terms: Sequence[TermVerdict], lines: Lines) -> str:
    """The line that tells a loss from the others: that of its reduction, or of its items.

    The items of several may come from one line that was called from different ones: then it is
    those. Of several on one line it is told what reduces them, and if that is one function too,
    which of them it is.
    """
    shared = [t for t in terms if t.term.source == term.term.source]
    source = term.term.source if len(shared) == 1 else _line_of_items(term, shared, lines)
    text = lines.text(source, 36) or lines.place(source) or "a loss"
    beside = [
        t for t in shared
        if len(shared) == 1 or lines.place(_line_of_items(t, shared, lines)) == lines.place(source)
    ]  # fmt: skip
    if len(beside) < 2:
        return text
    alike = [t for t in beside if _reducer(t) == _reducer(term)]
    number = f" {alike.index(term) + 1}" if len(alike) > 1 else ""
    return f"{_reducer(term)}{number} in {text}"


def _line_of_items(term: TermVerdict, shared: Sequence[TermVerdict], lines: Lines) -> int | None:
    """The line that the items of a loss come from, or of its callers the first of its own."""
    others = {
        lines.place(line)
        for other in shared
        if other.term.items != term.term.items
        for line in lines.callers(other.term.items)
    }
    own = (line for line in lines.callers(term.term.items) if lines.place(line) not in others)
    return next(own, term.term.items)


def _reducer(term: TermVerdict) -> str:
    """sum, mean, cross_entropy: the function that reduces the items of a loss."""
    reductions = term.rows[0].reductions if term.rows else ()
    if not reductions:
        return "value"
    last = reductions[-1]
    return last.called or last.name.partition("Backward")[0].lower() or "root"


def term_effect(one: Explanation, term: TermVerdict) -> str:
    """lr x 1/8 = 0.000125 each"""
    weight, optimizer = term.unit_weight, one.optimizer
    if weight is None:
        return ""
    unit = _unit(term)
    if optimizer is None or not optimizer.is_linear or optimizer.lr is None:
        return f"{said(weight)} per {unit}"
    return f"lr x {said(weight)} = {number(optimizer.lr * float(weight))} per {unit}"


def _unit(term: TermVerdict) -> str:
    """item; sample, where it is the sum of its elements; else with what is made of them."""
    return term.unit if "(the mean" in term.unit else term.unit.partition(" ")[0]


def _sentence(one: Explanation, term: TermVerdict) -> str:
    """What one item does to the parameter in the end."""
    weight, optimizer = term.unit_weight, one.optimizer
    assert weight is not None
    subject = f"One {_unit(term)}"
    if optimizer is None:
        return f"{subject} adds {said(weight)} x its own gradient."
    if not optimizer.is_linear or optimizer.lr is None:
        return f"{subject} counts {said(weight)} x its own gradient in what {optimizer.kind} sees."
    step = number(optimizer.lr * float(weight))
    return (
        f"{subject} moves this weight by lr x {said(weight)} = {step} times its own gradient "
        f"(lr {number(optimizer.lr)})."
    )


def _rows_table(one: Explanation, lines: Lines) -> list[str]:
    rows = one.ledger.rows
    if not rows:
        return []
    head = ("rank", "call", "replica", "items", "at the loss", "then", "at the optimizer", "total",
            "line")  # fmt: skip
    told = _by_rank(rows, lines)
    cells = [head, *told[:MOST_ROWS]]
    is_told = [
        any(row.rank is not None for row in rows), True,
        any(row.replica is not None for row in rows), *[True] * 6,
    ]  # fmt: skip
    cells = [tuple(compress(cell, is_told)) for cell in cells]
    more = [f"... {len(told) - MOST_ROWS} more"] if len(told) > MOST_ROWS else []
    return [*_columns(cells), *more]


def _by_rank(rows: Sequence[Row], lines: Lines) -> list[tuple[str, ...]]:
    """The cells of each row; what is the same on several ranks is told once."""
    ranks: dict[tuple[str, ...], list[Row]] = {}
    seen: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        cells = _row_cells(row, lines)
        key = (*cells, str(seen[row.rank, cells]))
        seen[row.rank, cells] += 1
        ranks.setdefault(key, []).append(row)
    return [(_ranks(found), *cells[:-1]) for cells, found in ranks.items()]


def _ranks(rows: Sequence[Row]) -> str:
    """0-3: the ranks of equal rows, and of those that a simulated one stands for."""
    if rows[0].copies > 1:
        return f"{rows[0].copies:,} x"
    known = [row.rank for row in rows if row.rank is not None]
    return named_ranks(known).partition(" ")[2] if known else ""


def _row_cells(row: Row, lines: Lines) -> tuple[str, ...]:
    source = row.reductions[-1].source if row.reductions else row.term.source
    samples = row.samples
    if not row.items and row.masked:
        return (*_who(row), f"0 of {row.masked:,}", "0/0", "-", "-", "-", lines.place(source))
    items = f"{row.items:,}"
    if samples is not None and samples.each > 1:
        items += f" = {samples.count} x {samples.each}"
    passed = [_factor(f) for f in row.after]
    return (
        *_who(row),
        items,
        f"{said(row.weight_at_loss)}  ({' · '.join(_factor(f) for f in row.loss) or 'x 1'})",
        " · ".join(passed) or "-",
        said(row.weight) if not row.unknown else "?",
        said(row.total) if not row.unknown else row.unknown,
        lines.place(source),
    )


def _who(row: Row) -> tuple[str, str]:
    return str(row.number), "" if row.replica is None else str(row.replica)


def _factor(factor: Factor) -> str:
    if factor.kind in ("reduction", "scale", "start"):
        words = factor.words if factor.kind == "reduction" else ""
    else:
        words = factor.words
    text = "no factor" if factor.value is None else factor.text
    return f"{text} {words}".strip()


def _history_table(one: Explanation, lines: Lines) -> list[str]:
    history = one.ledger.history
    rows: list[tuple[str, ...]] = []
    if history.emptied:
        # A new tensor that takes the place of a dead one (folds, copies of a model) has no event.
        is_seen = history.emptied != "by hand"
        words = history.emptied if is_seen else "by hand, or it is a new tensor"
        rows.append(("emptied", words, "", "", lines.place(history.emptied_at)))
    told = list(zip(history.entries, one.shares, strict=True))
    for entry, share in told[:MOST_ENTRIES]:
        measured = entry.tensor.measured if entry.tensor else None
        part = "" if share is None else f"{share_text(share)} of the whole"
        norm = number(measured.norm) if measured else "?"
        about = "about " if entry.is_rest else ""
        rows.append((_origin(one, entry), f"adds |grad| {about}{norm}", part, "",
                     lines.place(entry.source)))  # fmt: skip
    if len(told) > MOST_ENTRIES:
        rows.append(("...", f"{len(told) - MOST_ENTRIES:,} more", "", "", ""))
    for change in dict.fromkeys(history.entries[-1].changes if history.entries else ()):
        value = f"x {said(change.factor)}" if change.factor is not None else "not a factor"
        rows.append(("then", change.words, value, "", lines.place(change.source)))
    if one.ledger.step is not None:
        step = one.ledger.step
        lr = "" if one.optimizer is None else options_text(one.optimizer)
        rows.append((f"step {step.step}", f"{step.kind} takes |grad| {number(one.ledger.norm)}",
                     lr, "", lines.place(step.source)))  # fmt: skip
    return _columns(rows)


def _origin(one: Explanation, entry: Entry) -> str:
    """rank 1 call 2: where a contribution comes from."""
    rank = "" if entry.rank is None else f"rank {entry.rank} "
    if entry.call is None:
        return f"{rank}(missing)" if entry.is_rest else f"{rank}earlier content"
    numbers = [r.number for r in one.ledger.rows if (r.call, r.rank) == (entry.call, entry.rank)]
    return f"{rank}call {numbers[0]}" if numbers else f"{rank}call inside another"


def options_text(optimizer: Optimizer) -> str:
    """lr 0.1, momentum 0.9, nesterov: what a step does with the gradient."""
    rates = optimizer.lrs or (optimizer.lr,)
    told = [f"lr {' + '.join(number(rate) for rate in rates)}"]
    for name in ("momentum", "dampening", "weight_decay"):
        value = optimizer.options.get(name)
        if value and isinstance(value, int | float):
            told.append(f"{name.replace('_', ' ')} {number(value)}")
    told += [name for name in ("nesterov", "maximize", "foreach", "fused")
             if optimizer.options.get(name) is True]  # fmt: skip
    return ", ".join(told)


def share_text(share: Share) -> str:
    """38 %, or about 38 % where it may be off by 9."""
    text = f"{100 * share.value:.0f} %"
    return text if share.is_exact else f"about {text} (± {max(100 * share.error, 1):.0f})"


def _terms_table(one: Explanation, lines: Lines) -> list[str]:
    """How much of what was consumed comes from each term of the loss."""
    if one.terms.missing:
        return [printable(one.terms.missing)]
    rows = [
        (share_text(term.share), "" if term.norm is None else f"|grad| {number(term.norm)}",
         *_term_place(term, one.terms.terms, lines))
        for term in one.terms.terms
    ]  # fmt: skip
    return _columns(rows)


def _term_place(term: TermShare, terms: Sequence[TermShare], lines: Lines) -> tuple[str, str]:
    """The text and the place of the line that tells a term from the others."""
    sources = [_sources_of(other) for other in terms]
    own = _sources_of(term)
    is_told_apart = sum(other[0] == own[0] for other in sources) == 1
    source = own[0] if is_told_apart else own[1]
    return lines.text(source, 48), lines.place(source)


def _sources_of(term: TermShare) -> tuple[int | None, int | None]:
    """The line of its reduction, and that of its items."""
    if not term.losses:
        return term.source, term.source
    return term.losses[0].source, term.losses[0].items


def _chain_table(one: Explanation, lines: Lines) -> list[str]:
    places = _told(one.chain)
    left = len(places) - MOST_LINKS
    if left <= 0:
        return _columns([_link_row(one.chain[place], lines) for place in places])
    first, last = places[: MOST_LINKS // 2], places[-MOST_LINKS // 2 :]
    return _columns([
        *(_link_row(one.chain[place], lines) for place in first),
        ("...", f"{left} more", "", "", ""),
        *(_link_row(one.chain[place], lines) for place in last),
    ])  # fmt: skip


def _told(chain: Sequence[Link]) -> list[int]:
    """The places of the links that are shown."""
    if isinstance(chain, Links):
        return chain.told
    return [place for place, link in enumerate(chain) if link.is_told or place == len(chain) - 1]


def _link_row(link: Link, lines: Lines) -> tuple[str, ...]:
    effect = link.effect
    if link.branches > 1:
        effect = f"{effect + ', ' if effect else ''}parts in {link.branches} branches"
    if link.fan_in > 1:
        effect = f"{link.fan_in} meet{_parts(link)}{'; ' if effect else ''}{effect}"
    return (operator(link.name), effect, f"|grad| {number(link.norm)}",
            lines.text(link.source, 44), lines.place(link.source))  # fmt: skip


def _parts(link: Link) -> str:
    """(62 % + 38 %), of few contributions."""
    if not 1 < len(link.shares) <= MOST_PARTS:
        return ""
    about = "" if all(share.is_exact for share in link.shares) else "about "
    return f" ({about}{' + '.join(f'{100 * share.value:.0f} %' for share in link.shares)})"


def _balance(one: Explanation) -> list[str]:
    report = one.report
    if report is None:
        return []
    found = []
    if one.balance is not None:
        found.append(f"contributions x factors = what was consumed: {_balanced(one)}")
    found += _exchanges(one)
    worst = f"to {report.worst:.0e}" if report.worst else "exactly"
    off = len(report.imbalances) + len(report.hooked)
    count = f"{report.fan_ins + report.buffers:,} sums in its calls"
    by = "off" if report.imbalances else _changers(report.hooked)
    found.append(f"{count}, {off} {by}, the rest {worst}" if off else f"{count}, balanced {worst}")
    for imbalance in [*report.imbalances, *report.hooked][:6]:
        factor = "" if imbalance.factor is None else f" x {imbalance.factor:.6g}"
        why = f" ({imbalance.explanation})" if imbalance.explanation else ""
        found.append(printable(f"{imbalance.what}: changed{factor}{why}"))
    return found


def _changers(explained: Sequence[Imbalance]) -> str:
    """Who changed the sums that are off, and is known."""
    shared = [one for one in explained if one.explanation.endswith(" ranks")]
    if len(shared) == len(explained):
        return "exchanged between ranks"
    return "changed by hooks or exchanged between ranks" if shared else "changed by hooks"


def _exchanges(one: Explanation) -> list[str]:
    """Whether what left the exchanges is what all ranks put in."""
    shared = one.ledger.history.shared
    errors = [each.error for each in shared if each.error is not None]
    found = []
    if errors:
        worst = f"to {max(errors):.0e}" if max(errors) else "exactly"
        count = plural(len(errors), "exchange")
        found.append(f"{count} between ranks: what left = what entered, added up: {worst}")
    unchecked = [each for each in shared if each.error is None]
    if unchecked:
        why = "simulated" if unchecked[0].is_simulated else "a rank is missing"
        found.append(f"{plural(len(unchecked), 'exchange')} not checked: {why}")
    return found


def overview_text(overview: Overview, trace: Trace, ink: Ink, terms: bool = False) -> str:
    """Without a parameter: the answers for the run, and a table of parameters."""
    filled = _filled(overview)
    steps = [group for group in overview.groups if group.members[0].name not in filled]
    text = answers_text(overview, trace, ink)
    notes = notes_text(overview, trace)
    if not overview.groups:
        return notes
    text += f"\n{notes}" if notes else ""
    return f"{text}\n" + (
        "\n".join(_parameters(steps, Lines(trace), ink, terms)) + "\n" if steps else ""
    )


def notes_text(overview: Overview, trace: Trace) -> str:
    """What happened in the run, beside what is said with the answers already."""
    told = {note.words for group in overview.groups for note in group.members[0].notes}
    notes = [note for note in overview.notes if note.words not in told]
    return "".join(f"{line.strip()}\n" for line in _notes(notes, Lines(trace)))


def answers_text(overview: Overview, trace: Trace, ink: Ink, most: int = MOST_ANSWERS) -> str:
    """The answers for a run: at most so many of steps, and of buffers that were never consumed."""
    lines = Lines(trace)
    filled = _filled(overview)
    steps = [group for group in overview.groups if group.members[0].name not in filled]
    blocks = [_answer(group, lines, ink) for group in steps[:most]]
    blocks += [_fillings(members, lines, ink) for members in filled.values()][:most]
    left = max(0, len(steps) - most) + max(0, len(filled) - most)
    if left:
        blocks.append(
            [f"... {plural(left, 'more answer')}; see them with `explain TRACE PARAMETER`"]
        )
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _answer(group: Group, lines: Lines, ink: Ink) -> list[str]:
    axes = _axes_table(group.verdict.axes, lines, ink, group.members)
    return [_title(group, lines, ink), *axes, *_conclusion(group.members[0], lines, ink)]


def _filled(overview: Overview) -> dict[str, list[Explanation]]:
    """The buffers that were filled more than once and never consumed, with each filling."""
    found: dict[str, list[Explanation]] = {}
    for group in overview.groups:
        for one in group.members:
            if one.fills > 1:
                found.setdefault(one.name, []).append(one)
    return found


def _title(group: Group, lines: Lines, ink: Ink) -> str:
    members = group.members
    named = listed([_clean(m.name) for m in members], 2)
    what = named if len(members) < 3 else f"{plural(len(members), 'parameter')} ({named})"
    return f"{ink.bold(what)}   {_when_of(members, lines)}"


def _when_of(members: Sequence[Explanation], lines: Lines) -> str:
    """At one step, or each at its own: an optimizer may step inside the backward call."""
    steps = sorted({one.ledger.step.step for one in members if one.ledger.step is not None})
    source = members[0].ledger.step.source if members[0].ledger.step is not None else None
    if len(steps) < 2:
        return _when(members[0], lines)
    return f"at steps {_range(steps)}, one for each ({lines.place(source)})"


def _parameters(groups: Sequence[Group], lines: Lines, ink: Ink, terms: bool) -> list[str]:
    members = [one for group in groups for one in group.members]
    columns: list[tuple[str, Callable[[Explanation], str]]] = [
        ("parameter", lambda one: one.name),
        ("|grad|", lambda one: number(one.ledger.norm)),
        ("at", _moment),
    ]
    if len(groups) > 1:
        columns.append(("answer", lambda one: clipped(one.verdict.words, 56)))
    told = _same_terms(members) if terms else []
    if told:
        columns.append(("terms", _term_shares))
    columns.append(("beside it", _beside))
    rows = [[head for head, _ in columns]]
    rows += [[cell(one) for _, cell in columns] for one in members[:MOST_PARAMETERS]]
    drawn = _columns(rows)
    more = len(members) - MOST_PARAMETERS
    tail = [f"... {plural(more, 'more parameter')}"] if more > 0 else []
    legend = [
        f"  term {n}  {text}  {place}"
        for n, (text, place) in enumerate((_term_place(t, told, lines) for t in told), start=1)
    ]
    if terms and not told and members:
        legend = [printable(f"terms: {members[0].terms.missing}")]
    return [ink.dim(drawn[0]), *drawn[1:], *tail, *legend]


def _moment(one: Explanation) -> str:
    return f"step {one.ledger.step.step}" if one.ledger.step is not None else "the end"


def _same_terms(members: Sequence[Explanation]) -> Sequence[TermShare]:
    """The terms that head the column of shares: those of the parameter that has most."""
    return max((one.terms.terms for one in members), key=len, default=())


def _term_shares(one: Explanation) -> str:
    """62 / 20 / 18 %"""
    shown = [f"{100 * term.share.value:.0f}" for term in one.terms.terms]
    return f"{' / '.join(shown)} %" if shown else "-"


def _beside(one: Explanation) -> str:
    """Factors that its gradient passed beside those of the loss."""
    found = {_factor(f): None for row in one.ledger.rows for f in row.after}
    return listed(found, 3)
