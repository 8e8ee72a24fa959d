"""Which tensor autograd writes for a parameter, and which one the optimizer reads.

They are one and the same, but for sharded parameters: autograd writes the whole gradient, of all
ranks' elements, and the optimizer reads the part that this rank holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from tracer.analysis.history import Archive
from tracer.events import Exchange
from tracer.graph.names import Names

__all__ = ["Holdings"]


class Holdings:
    """The leaf that autograd writes, for each buffer of a trace."""

    def __init__(self, archive: Archive, names: Names) -> None:
        self._archive = archive
        self._names = names

    def leaf(self, buffer: int) -> int:
        """The leaf behind a buffer: mostly itself."""
        return self._leaves.get(buffer, buffer)

    def is_sharded(self, buffer: int) -> bool:
        """Whether ranks hold parts of it, and exchange the whole."""
        is_apart = self._leaves.get(buffer, buffer) != buffer
        return is_apart or buffer in self._scattered or buffer in self._waiting

    def is_flat(self, buffer: int) -> bool:
        """Whether autograd writes it as one of many parameters in a flat leaf (FSDP1)."""
        leaf = self.leaf(buffer)
        return leaf != buffer and self._names.buffer(leaf) != self._names.buffer(buffer)

    @cached_property
    def written(self) -> list[int]:
        """What autograd writes, as buffers that an optimizer reads."""
        behind: dict[int, list[int]] = {}
        for buffer, leaf in self._leaves.items():
            behind.setdefault(leaf, []).append(buffer)
        return [kept for leaf in self._written for kept in behind.get(leaf, [leaf])]

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Each name once: of a sharded parameter the part that is kept."""
        leaves = set(self._leaves.values())
        trace = self._archive.trace
        ordered = sorted(trace.buffers, key=lambda id: (id not in leaves, id))
        return {self._names.buffer(id): id for id in ordered}

    @cached_property
    def _written(self) -> list[int]:
        calls = {call.layout: call for call in self._archive.trace.calls}.values()
        return [b for b in self._archive.trace.buffers if any(
            self._archive.writes(call, b) for call in calls)]  # fmt: skip

    @cached_property
    def _scattered(self) -> set[int]:
        return {
            piece.buffer
            for exchange in self._archive.trace.exchanges
            if exchange.kind == "reduce_scatter"
            for piece in self._archive.trace.layout(exchange.layout).pieces
            if piece.buffer is not None and piece.content == "gradient"
        }

    @cached_property
    def _waiting(self) -> set[int]:
        """Parts in which a call left nothing, though their leaf got something: FSDP2 keeps it.

        So it does without synchronisation; on a single rank no exchange tells of it.
        """
        trace = self._archive.trace
        parts = {id for id, buffer in trace.buffers.items() if buffer.parts}
        found: set[int] = set()
        for call in trace.calls if parts else ():
            for buffer in parts - found:
                if self._archive.writes(call, buffer) and not self._archive.has_reading(
                    call, buffer, "after"
                ):
                    found.add(buffer)
        return found

    @cached_property
    def _leaves(self) -> Mapping[int, int]:
        """The leaf of each buffer that autograd never writes, but that is exchanged or kept."""
        written = set(self._written)
        named = {self._names.buffer(leaf): leaf for leaf in self._written}
        found: dict[int, int] = {}
        for buffer in self._archive.trace.buffers:
            if buffer in written:
                continue
            leaf = named.get(self._names.buffer(buffer), self._flat.get(buffer))
            if leaf is not None:
                found[buffer] = leaf
        return found

    @cached_property
    def _flat(self) -> dict[int, int]:
        """Parameters that are exchanged while a leaf of another name is written: a flat one."""
        found: dict[int, int] = {}
        for exchange in self._archive.trace.exchanges:
            leaf = self._writer(exchange)
            if leaf is None:
                continue
            for piece in self._archive.trace.layout(exchange.layout).pieces:
                if piece.buffer is not None and piece.content == "gradient":
                    found.setdefault(piece.buffer, leaf)
        return found

    def _writer(self, exchange: Exchange) -> int | None:
        """The leaf of the node that was at work when something was exchanged."""
        if exchange.call is None or exchange.node is None:
            return None
        if exchange.call not in self._archive.by_order:
            return None
        return self._archive.call(exchange.call).node(exchange.node).buffer
