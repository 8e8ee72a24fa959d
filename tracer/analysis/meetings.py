"""The operations between ranks, side by side: each is an event in the file of every member."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tracer.events import Exchange, Group
from tracer.tracefile import Trace

__all__ = ["Meeting", "Meetings"]


@dataclass(frozen=True)
class Meeting:
    """One operation of a process group: the event of each rank whose file has it.

    `ranks` are the members of the group, whether their files are there or not.
    """

    ranks: tuple[int, ...]
    kind: str
    op: str
    factor: float | None
    root: int | None
    exchanges: dict[int, Exchange] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[int, ...]:
        """The members whose files do not have it."""
        return tuple(rank for rank in self.ranks if rank not in self.exchanges)


class Meetings:
    """All operations of a job, by rank and order.

    The members of a group begin its operations in one order, so the n-th of a kind in a step is the
    same one in all files.
    """

    def __init__(self, traces: Mapping[int, Trace]) -> None:
        self._found: dict[tuple[int, int], Meeting] = {}
        known: dict[tuple[object, ...], Meeting] = {}
        for rank, trace in traces.items():
            seen: Counter[tuple[object, ...]] = Counter()
            for exchange in trace.exchanges:
                group = trace.groups[exchange.group]
                kind = _kind_of(exchange, group)
                key = (*kind, seen[kind])
                seen[kind] += 1
                meeting = known.setdefault(key, _meeting(exchange, group))
                meeting.exchanges[rank] = exchange
                self._found[rank, exchange.order] = meeting

    def of(self, rank: int, exchange: Exchange) -> Meeting:
        return self._found[rank, exchange.order]

    def __iter__(self) -> Iterator[Meeting]:
        """Each operation once, in the order of the first rank that has it."""
        return iter({id(meeting): meeting for meeting in self._found.values()}.values())


def _kind_of(exchange: Exchange, group: Group) -> tuple[object, ...]:
    return (group.name, group.ranks, exchange.step, exchange.kind, exchange.op)


def _meeting(exchange: Exchange, group: Group) -> Meeting:
    return Meeting(group.ranks, exchange.kind, exchange.op, exchange.factor, exchange.root)
