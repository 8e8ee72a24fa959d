"""The weights of an account's items, put together in the ways that several checks ask for."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tracer.analysis.checks.case import Account
from tracer.analysis.exact import product, total
from tracer.analysis.ledger import Row
from tracer.semantics.effects import Exact

__all__ = ["call_total", "is_known", "shared_clip", "size", "terms_of"]


def terms_of(account: Account) -> list[list[Row]]:
    """The rows of each loss, without the calls that an earlier step had used."""
    found: dict[object, list[Row]] = {}
    for row in account.rows:
        if not row.is_repeated:
            found.setdefault(row.term, []).append(row)
    return list(found.values())


def is_known(row: Row) -> bool:
    return row.weight is not None and row.total is not None and not row.unknown


def call_total(rows: Sequence[Row], call: int) -> Exact:
    """The sizes of the weights of all items of one call, as if no clip had been.

    Each loss counts with its size: a loss that is maximised (the sign of its weight) is not taken
    off one that is minimised.
    """
    parts: dict[object, list[Exact]] = {}
    for row in rows:
        if row.call == call and row.total is not None:
            clip = shared_clip(row)
            parts.setdefault(row.term, []).append(row.total / clip if clip else row.total)
    return total([size(total(part)) for part in parts.values()])


def shared_clip(row: Row) -> Exact | None:
    """What clips by norm multiplied a row by."""
    clips = [factor.value for factor in row.after if factor.kind == "clip_grad_norm"]
    return product(clips) if clips else Fraction(1)


def size(value: Exact) -> Exact:
    """Without its sign."""
    return -value if value < 0 else value
