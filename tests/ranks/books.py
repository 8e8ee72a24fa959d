"""What must hold of the exchanges of a job: what left is what entered, added up over the ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracer.events import Call, Exchange, Group, Measurement, Piece
from tracer.runfiles import Run
from tracer.tracefile import Trace

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """An exchange as one rank saw it: its pieces with what was measured of them."""

    rank: int
    fact: Exchange
    group: Group
    forms: dict[int, str]
    """The dtype of each form."""
    pieces: list[tuple[Piece, Measurement | None]]

    def of(self, moment: str) -> list[tuple[Piece, Measurement | None]]:
        return [(piece, m) for piece, m in self.pieces if piece.moment == moment]


def seen_by(trace: Trace) -> Iterator[Seen]:
    forms = {form.id: form.dtype for form in trace.forms.values()}
    for fact in trace.exchanges:
        rows = trace.measurements(fact)
        pieces = [
            (piece, None if piece.row is None else rows[piece.row])
            for piece in trace.layout(fact.layout).pieces
        ]
        yield Seen(trace.info.rank, fact, trace.groups[fact.group], forms, pieces)


def meetings(run: Run) -> list[dict[int, Seen]]:
    """The exchanges of all ranks, the n-th of a group on each of its ranks together."""
    by_group: dict[tuple[str, tuple[int, ...]], dict[int, list[Seen]]] = defaultdict(dict)
    for rank, trace in run.ranks.items():
        for seen in seen_by(trace):
            key = (
                seen.group.name if seen.fact.kind not in ("send", "recv") else "",
                seen.group.ranks,
            )
            by_group[key].setdefault(rank, []).append(seen)
    met = []
    for (_, ranks), lists in by_group.items():
        assert sorted(lists) == sorted(ranks), "a rank of the group has recorded nothing of it"
        assert len({len(of_rank) for of_rank in lists.values()}) == 1, "some have recorded more"
        met += [
            {seen.rank: seen for seen in together} for together in zip(*lists.values(), strict=True)
        ]
    return met


def numbers(measured: Measurement) -> Vector:
    total = measured.sum
    return (float(total.real), *measured.fingerprint)


def added(vectors: Sequence[Vector]) -> Vector:
    return tuple(map(sum, zip(*vectors, strict=True)))


def is_close(found: Vector, expected: Vector, size: float) -> bool:
    """To float32 precision, against the size of what was added up."""
    return all(abs(a - b) <= 2e-5 * size + 1e-12 for a, b in zip(found, expected, strict=True))


def unbalanced(meeting: dict[int, Seen]) -> list[str]:
    """What does not add up in an exchange, in words; [] if all does, or nothing is to add up."""
    check = LAWS.get(next(iter(meeting.values())).fact.kind)
    return list(check(meeting)) if check else []


def _reduced(meeting: dict[int, Seen]) -> Iterator[str]:
    """all_reduce: the same place in the same tensor, on every rank."""
    for rank, seen in meeting.items():
        for piece, left in seen.of("left"):
            entered = [
                measured
                for other in meeting.values()
                for place, measured in other.of("entered")
                if (place.tensor, place.at, place.elements)
                == (piece.tensor, piece.at, piece.elements)
            ]
            yield from _compare(rank, seen, piece, left, entered, len(meeting))


def _where(piece: Piece) -> tuple[int, int, int]:
    return piece.tensor, piece.at, piece.elements


def _scattered(meeting: dict[int, Seen]) -> Iterator[str]:
    """reduce_scatter: what all ranks sent to this one, of the same elements."""
    for rank, seen in meeting.items():
        left = seen.of("left")
        for number, (piece, measured) in enumerate(left):
            entered = [
                [m for place, m in other.of("entered") if place.peer == rank][number]
                for other in meeting.values()
            ]
            yield from _compare(rank, seen, piece, measured, entered, len(meeting))


def _gathered(meeting: dict[int, Seen]) -> Iterator[str]:
    """all_gather: the place of a rank has what this rank sent."""
    for rank, seen in meeting.items():
        for piece, left in seen.of("left"):
            if piece.peer is None or left is None:
                continue
            entered = [m for _, m in meeting[piece.peer].of("entered")]
            yield from _compare(rank, seen, piece, left, [entered[piece.tensor % len(entered)]], 1)


def _broadcast(meeting: dict[int, Seen]) -> Iterator[str]:
    for rank, seen in meeting.items():
        root = meeting[seen.fact.root]  # type: ignore[index]
        for (piece, left), (_, entered) in zip(seen.of("left"), root.of("entered"), strict=True):
            yield from _compare(rank, seen, piece, left, [entered], 1)


def _exchanged(meeting: dict[int, Seen]) -> Iterator[str]:
    for rank, seen in meeting.items():
        for piece, left in seen.of("left"):
            entered = [m for place, m in meeting[piece.peer].of("entered") if place.peer == rank]  # type: ignore[index]
            yield from _compare(rank, seen, piece, left, entered, 1)


LAWS = {
    "all_reduce": _reduced,
    "reduce_scatter": _scattered,
    "all_gather": _gathered,
    "broadcast": _broadcast,
    "all_to_all": _exchanged,
}


PRECISION = {"float16": 50, "bfloat16": 400}
"""How much coarser than float32 a sum is rounded."""


def _compare(
    rank: int,
    seen: Seen,
    piece: Piece,
    left: Measurement | None,
    entered: Sequence[Measurement | None],
    ranks: int,
) -> Iterator[str]:
    known = [m for m in entered if m is not None]
    if left is None and not known:
        return
    where = f"rank {rank}: {seen.fact.kind} {seen.fact.order}, piece at {piece.at}"
    if left is None or len(known) != len(entered) or len(known) != ranks:
        yield f"{where}: not measured on all ranks"
        return
    if seen.fact.op not in ("sum", "avg", ""):
        return
    expected = added([numbers(m) for m in known])
    if seen.fact.op == "avg":
        expected = tuple(value / ranks for value in expected)
    size = PRECISION.get(seen.forms[piece.form], 1) * sum(m.norm for m in known)
    if not is_close(numbers(left), expected, size):
        yield f"{where}: {numbers(left)} left where {expected} entered"


def calls_with(trace: Trace) -> Iterator[tuple[Call, list[Seen]]]:
    """Each backward call, with the exchanges inside it."""
    inside: dict[int, list[Seen]] = defaultdict(list)
    for seen in seen_by(trace):
        if seen.fact.call is not None:
            inside[seen.fact.call].append(seen)
    for call in trace.calls:
        yield call, inside[call.order]
