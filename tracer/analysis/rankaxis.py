"""How ranks are put together in a gradient: summed, averaged, unequal, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from tracer.analysis.axis import Axis
from tracer.analysis.exact import is_same, product, said
from tracer.analysis.history import Shared
from tracer.analysis.ledger import Ledger, Row
from tracer.analysis.rankhistory import EXCHANGED
from tracer.analysis.strand import Factor
from tracer.semantics.effects import Exact
from tracer.tracefile import Trace

__all__ = ["BY_HAND", "alone", "named_ranks", "of_ranks", "rank_factor", "ranks_axis", "world_of"]

ONE = Fraction(1)
BY_HAND = ("edit", "hook")
"""Kinds of change that may be the division of a sum over ranks."""


def world_of(ledger: Ledger) -> int:
    """How many ranks exchanged what is in the buffer; 1 if it was not exchanged.

    In two stages (hybrid sharding) also those that this rank did not meet itself.
    """
    history = ledger.history
    if not history.shared:
        return 1
    met = {rank for shared in history.shared for rank in shared.ranks}
    behind = {entry.rank for entry in history.entries if entry.rank is not None}
    copies = max((entry.copies for entry in history.entries), default=1)
    return max(len(met | behind), copies)


def rank_factor(row: Row, world: int) -> tuple[Exact | None, tuple[Factor, ...]]:
    """What the ranks' exchange multiplied a row with, and the factors that make it up.

    A sum over ranks that somebody divides by their number, before or after, is an average.
    """
    own = tuple(factor for factor in row.after if factor.kind in EXCHANGED)
    value = product(factor.value for factor in own)
    if not own or value is None or is_same(value, Fraction(1, world)):
        return value, own
    for factor in row.after:
        by = factor.value if factor.kind in BY_HAND else None
        if by is not None and is_same(value * by, Fraction(1, world)):
            return value * by, (*own, factor)
    return value, own


def alone(ledger: Ledger) -> Ledger:
    """The ledger as if one rank were alone: its own rows, without what the exchange did."""
    if not ledger.history.shared:
        own_rows = tuple(row for row in ledger.rows if row.rank in (None, ledger.rank))
        return ledger if len(own_rows) == len(ledger.rows) else replace(ledger, rows=own_rows)
    world = world_of(ledger)
    known = [row.rank for row in ledger.rows]
    rank = ledger.rank if ledger.rank in known else next(iter(known), None)
    # A call that was never exchanged (under `no_sync`) names no rank: it is this one's.
    names = (rank, None) if rank == ledger.rank else (rank,)
    own = [row for row in ledger.rows if row.rank in names]
    taken = {(f.kind, f.words) for row in own for f in rank_factor(row, world)[1]}
    rows = tuple(_without(row, world) for row in own)
    entries = tuple(
        replace(e, changes=tuple(c for c in e.changes if (c.kind, c.words) not in taken))
        for e in ledger.history.entries
        if e.rank in (rank, None)
    )
    history = replace(ledger.history, entries=entries, shared=())
    return replace(ledger, rows=rows, history=history)


def _without(row: Row, world: int) -> Row:
    value, factors = rank_factor(row, world)
    after = list(row.after)
    for factor in factors:
        after.remove(factor)
    weight = row.weight / value if row.weight is not None and value else row.weight
    return replace(row, after=tuple(after), weight=weight, copies=1)


def of_ranks(row: Row) -> Row:
    """A row that stands for several equal ranks with the items of all of them."""
    if row.copies == 1:
        return row
    n, samples, reductions = row.copies, row.samples, row.reductions
    if samples is not None:
        samples = replace(samples, count=samples.count * n)
    if reductions and reductions[-1].denominator is not None:
        last = replace(reductions[-1], denominator=reductions[-1].denominator * n)
        reductions = (*reductions[:-1], last)
    return replace(row, items=row.items * n, samples=samples, reductions=reductions, copies=1)


def ranks_axis(ledger: Ledger, trace: Trace, is_sum: bool) -> Axis:
    """The line of the ranks; `is_sum`: each rank's loss is a sum, or a part of one mean."""
    if trace.info.world < 2:
        return Axis("ranks", "-", "single process")
    if not ledger.history.shared:
        return _apart(ledger, trace)
    axis = _together(ledger, is_sum)
    return replace(axis, words=axis.words + _but(ledger))


def _together(ledger: Ledger, is_sum: bool) -> Axis:
    shared, world = ledger.history.shared, world_of(ledger)
    source, note = shared[-1].source, _by(ledger, world)
    unknown = next((row.unknown for row in ledger.rows if row.unknown), "")
    ranks = f"{world:,} ranks"
    if unknown or not ledger.rows:
        return Axis("ranks", "?", f"{ranks}: {unknown or ledger.unknown}", note, source)
    factors = {row.rank: rank_factor(row, world)[0] for row in ledger.rows}
    values = list(factors.values())
    if not _is_one(values) or not _are_alike(ledger.rows):
        return Axis("ranks", "UNEQUAL", f"{ranks}{_unequal(ledger, values)}", note, source)
    value = values[0]
    if value is None:
        return Axis("ranks", "?", ranks, note, source)
    if is_same(value, Fraction(1, world)):
        return Axis("ranks", "mean", f"{ranks}, {said(value)} each", note, source)
    if is_same(value, ONE):
        if is_sum:
            return Axis("ranks", "sum", f"{ranks}, one sum together", note, source)
        return Axis("ranks", "SUM", f"{ranks}, added, not divided", note, source)
    is_more = abs(float(value)) * world > 1
    words = f"{ranks}, {said(value)} each"
    if not is_more:
        words += ": divided more than once"
    return Axis("ranks", "SUM" if is_more else "MEAN", words, note, source)


def _apart(ledger: Ledger, trace: Trace) -> Axis:
    """Nothing of it was exchanged, as far as can be seen."""
    here = f"{trace.info.world:,} ranks"
    behind = {row.rank for row in ledger.rows if row.rank is not None}
    if len(behind) > 1:
        words = f"{here}, not exchanged; in it are the losses of {named_ranks(sorted(behind))}"
        return Axis("ranks", "sum", f"{words}, added in the graph")
    hidden = next((f for r in ledger.rows for f in r.after if f.kind in EXCHANGED), None)
    if hidden is not None:
        return Axis("ranks", "?", f"{here}: {hidden.words}", source=hidden.source)
    if trace.buffers[ledger.buffer].parts:
        return Axis("ranks", "-", f"{here}, each with a part of it: nothing exchanged")
    if ledger.unlike:
        words = f"{here}, nothing exchanged: {named_ranks(ledger.unlike)} consumed another gradient"
        return Axis("ranks", "UNEQUAL", words)
    if trace.info.simulated:
        return Axis("ranks", "one", f"{here}, nothing exchanged; simulated, all taken to be equal")
    if ledger.alike:
        return Axis("ranks", "one", f"{here}, nothing exchanged: the same gradient on each")
    return Axis("ranks", "-", f"{here}, nothing exchanged")


def _is_one(values: Sequence[Exact | None]) -> bool:
    return all(is_same(values[0], value) for value in values)


def _weights(rows: Iterable[Row]) -> dict[int | None, list[Exact | None]]:
    found: dict[int | None, list[Exact | None]] = {}
    for row in rows:
        found.setdefault(row.rank, []).append(row.weight)
    return found


def _are_alike(rows: Sequence[Row]) -> bool:
    """Whether the items of all ranks weigh the same, loss by loss."""
    found = list(_weights(rows).values())
    return all(
        len(other) == len(found[0]) and all(map(is_same, found[0], other)) for other in found
    )


def _unequal(ledger: Ledger, values: Sequence[Exact | None]) -> str:
    """Who weighs how much."""
    by_weight: dict[tuple[str, ...], list[int]] = {}
    for rank, weights in _weights(ledger.rows).items():
        key = tuple(dict.fromkeys(said(weight) for weight in weights))
        by_weight.setdefault(key, []).append(rank or 0)
    each = f", {said(values[0])} each" if _is_one(values) else ""
    told = [f"{' or '.join(w[:3])} on {named_ranks(ranks)}" for w, ranks in by_weight.items()]
    more = f" and {len(told) - 4} others" if len(told) > 4 else ""
    return f"{each}: an item weighs {', '.join(told[:4])}{more}"


def _by(ledger: Ledger, world: int) -> str:
    """Who exchanged, and who divided the sum."""
    shared = ledger.history.shared
    makers = list(dict.fromkeys(one.by for one in shared))
    words = ", then ".join(makers)
    if len(shared) > len(makers):
        words += f", {len(shared)} times"
    extra = [f for row in ledger.rows[:1] for f in rank_factor(row, world)[1]
             if f.kind in BY_HAND]  # fmt: skip
    return words + "".join(f", x {said(f.value)} {f.words}" for f in extra)


def _but(ledger: Ledger) -> str:
    """What has to be added: ranks that are missing, or had nothing to give, or were not there."""
    last: Shared = ledger.history.shared[-1]
    words = ""
    missing = sorted({rank for shared in ledger.history.shared for rank in shared.missing})
    if last.is_simulated:
        words += "; simulated, all taken to be equal"
    elif ledger.rest:
        is_one = "its part is what is left over"
        words += f"; {named_ranks(missing)} is missing: {is_one}"
    elif missing:
        verb = "is" if len(missing) == 1 else "are"
        words += f"; {named_ranks(missing)} {verb} missing"
    if last.without:
        words += f"; {named_ranks(last.without)} had nothing in it"
    if ledger.unlike:
        words += f"; {named_ranks(ledger.unlike)} consumed another gradient"
    return words


def named_ranks(ranks: Sequence[int]) -> str:
    """rank 3; ranks 0-2, 5"""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    shown = ", ".join(texts[:8]) + (", ..." if len(texts) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
