"""Why a gradient has the size it has: the whole answer for one parameter, or for a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tracer.analysis.balance import BalanceReport, check_balance
from tracer.analysis.chain import Link, chain_of
from tracer.analysis.exact import product, rounding, terms
from tracer.analysis.history import Entry
from tracer.analysis.job import seen_from
from tracer.analysis.ledger import Books, Ledger, Row, steps_of
from tracer.analysis.notes import Note, Optimizer, notes_of, optimizer_of, run_notes
from tracer.analysis.shares import Share, TermShares, shares_of, terms_of
from tracer.analysis.verdicts import Verdict, verdict_of
from tracer.errors import UnknownName
from tracer.events import Measurement, Step
from tracer.graph.names import matching
from tracer.graph.window import nothing_recorded
from tracer.runfiles import Run
from tracer.tracefile import Trace

MOST_LATER = 12
"""Later steps that are compared with the one that is shown."""

__all__ = ["Explainer", "Explanation", "Group", "Optimizer", "Overview", "explainer_of"]

NO_TERMS = TermShares(missing="the run was recorded without `trace --terms`")


@dataclass(frozen=True)
class Explanation:
    """One parameter at one step.

    `balance` is how far the contributions, with all factors, are from what was consumed, relative
    to their norms; None where a factor is not known. `chain` is that of the last call. `shares` are
    those of the contributions, `terms` those of the terms of the loss.
    """

    name: str
    ledger: Ledger
    verdict: Verdict
    optimizer: Optimizer | None
    balance: float | None
    report: BalanceReport | None = None
    chain: Sequence[Link] = ()
    fills: int = 0
    notes: tuple[Note, ...] = ()
    shares: tuple[Share | None, ...] = ()
    terms: TermShares = NO_TERMS

    @property
    def is_balanced(self) -> bool:
        """Whether that is as near as the precision of the gradient allows."""
        content = self.ledger.content
        if self.balance is None or content is None:
            return True
        return self.balance <= rounding(content.form.dtype)


@dataclass(frozen=True)
class Group:
    """Parameters of one optimizer step (or of none) for which the same answer holds."""

    verdict: Verdict
    members: tuple[Explanation, ...]


@dataclass(frozen=True)
class Overview:
    """The answers for a run, those that hold for most parameters first."""

    groups: tuple[Group, ...]
    step: int | None
    notes: tuple[Note, ...] = ()


class Explainer:
    """Answers questions about one trace; with those of the other `ranks`, about the whole job."""

    def __init__(self, trace: Trace, ranks: Mapping[int, Trace] | None = None) -> None:
        if not trace.calls:
            raise nothing_recorded(trace)
        self.trace = trace
        self.books = Books(trace, ranks)
        self.names = self.books.names
        written = self.books.holdings.written
        by_hand = [b for b in trace.buffers if b not in set(written) and self._is_put_by_hand(b)]
        self.buffers = [*written, *by_hand]

    @cached_property
    def has_terms(self) -> bool:
        """Whether the run was recorded with `--terms`."""
        return any(edit.kind == "terms" for edit in self.trace.edits)

    def _is_put_by_hand(self, buffer: int) -> bool:
        """Whether a step took what no call ever wrote there."""
        archive, holdings = self.books.archive, self.books.holdings
        return not holdings.is_sharded(buffer) and any(
            archive.has_reading(step, buffer, "consumed") for step in self.trace.steps
        )

    def parameter(self, wanted: str, step: int | None = None) -> list[Explanation]:
        """One parameter at a step, by default the first that consumed it whole.

        Without any step: each time it was filled.
        """
        names = self.books.by_name
        name = matching(wanted, names)
        buffer = names[name]
        chosen = self._step(buffer, step)
        if chosen is not None or step is not None:
            return [self._explained(buffer, self.books.ledger(buffer, chosen), whole=True)]
        fills = self.books.fills(buffer)
        if not fills:
            fills = [self.books.ledger(buffer, None)]
        return [self._explained(buffer, ledger, whole=True, fills=len(fills)) for ledger in fills]

    def overview(self, step: int | None = None) -> Overview:
        """Every parameter, at the step or at the first that consumed it whole."""
        found: list[Explanation] = []
        for buffer in self.buffers:
            chosen = self._step(buffer, step) if step is None else self._at(buffer, step)
            if chosen is None and step is not None:
                continue
            if chosen is not None:
                found.append(self._explained(buffer, self.books.ledger(buffer, chosen)))
            else:
                fills = self.books.fills(buffer)
                found += [self._explained(buffer, f, fills=len(fills)) for f in fills]
        if not found and step is not None:
            known = sorted({s.step for s in self.trace.steps})
            raise UnknownName(
                "unknown-step", f"no gradient was consumed at step {step}; recorded are {known[:9]}"
            )
        notes = run_notes(self.trace) if found else (_nothing_written(self.trace),)
        groups = _grouped(found)
        if step is None:
            groups = tuple(self._with_later(group) for group in groups)
        return Overview(groups, step, notes)

    def _with_later(self, group: Group) -> Group:
        """The group, told if a later step of its first parameter is put together otherwise."""
        first, *others = group.members
        note = self._later(first)
        if note is None:
            return group
        first = replace(first, notes=(*first.notes, note))
        return replace(group, members=(first, *others))

    def _later(self, one: Explanation) -> Note | None:
        """The first later steps whose axes or losses are others."""
        buffer, shown = one.ledger.buffer, one.ledger.step
        if shown is None:
            return None
        later = [s for s in steps_of(self.trace, buffer) if s.order > shown.order][:MOST_LATER]
        if any(s.optimizer != shown.optimizer for s in later):
            return None  # several optimizers take turns: each step is another by design
        own = _shape_of(one.ledger, one.verdict)
        for step in later:
            ledger = self.books.ledger(buffer, step)
            if not ledger.history.entries:
                continue
            verdict = verdict_of(ledger, self.trace)
            if _shape_of(ledger, verdict) != own:
                words = f"Step {step.step} differs: {_difference(one.verdict, verdict)}"
                return Note(
                    "later-step", f"{words}; see `explain --step {step.step}`.", step.source
                )
        return None

    def _step(self, buffer: int, step: int | None) -> Step | None:
        """The step asked for, or the first whose window holds whole calls for this buffer."""
        if step is not None:
            found = self._at(buffer, step)
            if found is None:
                known = [s.step for s in steps_of(self.trace, buffer)]
                raise UnknownName(
                    "unknown-step",
                    f"no step {step} of an optimizer that holds {self.names.buffer(buffer)}; "
                    f"it was consumed at {_few(known)}",
                )
            return found
        candidates = [s for s in steps_of(self.trace, buffer) if s.outcome == "done"]
        used: Step | None = None
        for candidate in candidates[:50]:
            history = self.books.ledger(buffer, candidate).history
            if history.entries and history.is_complete:
                return candidate
            used = used or (candidate if history.entries else None)
        return used

    def _at(self, buffer: int, step: int) -> Step | None:
        return next((s for s in steps_of(self.trace, buffer) if s.step == step), None)

    def _explained(
        self, buffer: int, ledger: Ledger, *, whole: bool = False, fills: int = 0
    ) -> Explanation:
        report: BalanceReport | None = None
        chain: Sequence[Link] = ()
        if whole:
            orders = {e.call for e in ledger.history.entries if self._is_own(e)}
            orders |= {row.call for row in ledger.rows if self._is_own(row)}
            report = check_balance(self.trace, [c for c in self.trace.calls if c.order in orders])
            chain = self._chain(ledger)
        optimizer = optimizer_of(ledger)
        return Explanation(
            self.names.buffer(buffer), ledger, verdict_of(ledger, self.trace), optimizer,
            balance_of(ledger), report, chain, fills, notes_of(ledger, optimizer, self.trace),
            tuple(shares_of(replace(ledger.history, content=ledger.content))),
            terms_of(ledger, self.books) if self.has_terms else NO_TERMS,
        )  # fmt: skip

    def _chain(self, ledger: Ledger) -> Sequence[Link]:
        calls = [e.call for e in ledger.history.entries if e.call is not None and self._is_own(e)]
        if not calls:
            return ()
        facts = self.books.archive.call(calls[-1])
        return chain_of(facts, facts.writers[self.books.holdings.leaf(ledger.buffer)])

    def _is_own(self, one: Entry | Row) -> bool:
        """Whether it is of the rank that this trace is of."""
        return one.rank in (None, self.books.rank)


def explainer_of(run: Run, path: str | Path = "") -> Explainer:
    """For a whole job, looked at from the rank that `path` is the file of.

    Raises:
        NothingRecorded: that rank recorded no backward call.
    """
    return Explainer(seen_from(run, path), run.ranks)


def balance_of(ledger: Ledger) -> float | None:
    """How far the entries, times their factors, are from the content, relative to the norms."""
    content = ledger.content
    whole = content.measured if content is not None else None
    if whole is None or whole.nonfinite or not ledger.history.entries or not _is_all_here(ledger):
        return None
    parts: list[tuple[float, Measurement]] = []
    for entry in ledger.history.entries:
        factor = product(change.factor for change in entry.changes)
        part = entry.tensor.measured if entry.tensor is not None else None
        if factor is None or part is None or part.nonfinite or part.elements != whole.elements:
            return None
        parts.append((float(factor), part))
    scale = whole.norm + sum(abs(factor) * part.norm for factor, part in parts)
    if not math.isfinite(scale):
        return None
    # Of parts of several ranks put together, the values are not kept.
    has_values = all(m.values is not None for m in (whole, *(part for _, part in parts)))
    columns = zip(*(_terms(part, has_values) for _, part in parts), strict=True)
    sums = [math.fsum(f * t for (f, _), t in zip(parts, column, strict=True)) for column in columns]
    off = max(abs(s - t) for s, t in zip(sums, _terms(whole, has_values), strict=True))
    return off / scale if scale else 0.0


def _terms(measured: Measurement, has_values: bool) -> Sequence[float]:
    return terms(measured) if has_values else measured.fingerprint


def _is_all_here(ledger: Ledger) -> bool:
    """Whether the parts of all ranks are known, if only as what is left over."""
    missing = {rank for shared in ledger.history.shared for rank in shared.missing}
    is_simulated = any(shared.is_simulated for shared in ledger.history.shared)
    return not is_simulated and missing <= set(ledger.rest)


def _shape_of(ledger: Ledger, verdict: Verdict) -> tuple[object, ...]:
    """What a step is made of, without the numbers that data bring: calls, losses, verdicts."""
    calls = len({(row.rank, row.number) for row in ledger.rows})
    axes = tuple((a.name, a.verdict) for a in verdict.axes if a.name != "afterwards")
    return calls, axes, tuple(term.kind == "unknown" for term in verdict.terms)


def _difference(one: Verdict, other: Verdict) -> str:
    """The first line in which two answers part."""
    before = {(axis.name, axis.verdict, axis.words) for axis in one.axes}
    for axis in other.axes:
        if axis.name in ("backward calls", "replicas", "ranks") and (
            (axis.name, axis.verdict, axis.words) not in before
        ):
            note = f" ({axis.note})" if axis.note else ""
            return f"{axis.name} {axis.verdict}, {axis.words}{note}"
    return other.words


def _nothing_written(trace: Trace) -> Note:
    """What to say of a run whose calls only handed gradients back."""
    count = len(trace.calls)
    calls = "The recorded backward call" if count == 1 else f"The {count:,} recorded backward calls"
    words = f"{calls} wrote no .grad: autograd.grad hands gradients to the script, which uses them."
    return Note("nothing-written", words, trace.calls[0].source)


def _grouped(found: Sequence[Explanation]) -> tuple[Group, ...]:
    groups: dict[object, list[Explanation]] = {}
    for one in found:
        step, inside = one.ledger.step, one.ledger.history.inside
        # An optimizer that steps inside the call takes each parameter in a step of its own.
        moment = ("inside", inside) if inside else ("step", step.order if step else None)
        # What is said of one is said of all: their lr, their decay, their other steps.
        told = (_told_of(one.optimizer), tuple(note.words for note in one.notes))
        key = (moment, one.ledger.fill, one.verdict.signature, told)
        groups.setdefault(key, []).append(one)
    made = [Group(members[0].verdict, tuple(members)) for members in groups.values()]
    return tuple(sorted(made, key=_rank))


def _told_of(optimizer: Optimizer | None) -> str:
    """What is said of an optimizer: of one that divides by the size of the gradient, no lr."""
    if optimizer is not None and optimizer.is_adaptive:
        return optimizer.kind
    return repr(optimizer)


def _rank(group: Group) -> tuple[bool, int, int, int]:
    """What an optimizer takes comes before what is only filled: the inputs of a model."""
    ledger = group.members[0].ledger
    order = ledger.step.order if ledger.step is not None else 0
    return ledger.step is None, order, ledger.fill or 0, -len(group.members)


def _few(numbers: Sequence[int]) -> str:
    if not numbers:
        return "no step"
    shown = ", ".join(map(str, numbers[:6]))
    return f"step{'s' if len(numbers) > 1 else ''} {shown}{' ...' if len(numbers) > 6 else ''}"
