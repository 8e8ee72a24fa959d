"""The same line of code in the traces of several ranks, each of which numbers its lines itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracer.events import Source
from tracer.tracefile import Trace

__all__ = ["LinesOfRanks"]


class LinesOfRanks:
    """Says what a line of one rank is called by another.

    A line that the other never met is put behind its own, in its table of sources.
    """

    def __init__(self, traces: Mapping[int, Trace]) -> None:
        self._tables = {rank: trace.sources for rank, trace in traces.items()}
        self._ids = {
            rank: {_place(source): id for id, source in sorted(table.items(), reverse=True)}
            for rank, table in self._tables.items()
        }

    def moved(self, source: int | None, origin: int, target: int) -> int | None:
        """The number that `target` gives to a line of `origin`."""
        found = self._tables[origin].get(source) if source is not None else None
        if found is None or origin == target:
            return source
        known = self._ids[target].get(_place(found))
        return self._added(found, origin, target) if known is None else known

    def _added(self, source: Source, origin: int, target: int) -> int:
        id = max(self._tables[target], default=-1) + 1
        self._ids[target][_place(source)] = id
        self._tables[target][id] = replace(source, id=id, caller=None)
        if source.caller is not None:
            caller = self.moved(source.caller, origin, target)
            self._tables[target][id] = replace(source, id=id, caller=caller)
        return id


def _place(source: Source) -> tuple[str, int, str]:
    return (source.file, source.line, source.function)
