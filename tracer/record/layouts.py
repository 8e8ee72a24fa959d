"""The facts of one event put in order: its structure, its layout, and their signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.events import (
    Capture,
    Contribution,
    Edge,
    Layout,
    Node,
    NodeState,
    Piece,
    Reading,
    Receipt,
    Root,
    Structure,
)
from tracer.record.hooks import Graph, NodeSeen, Taken
from tracer.record.journal import Interned, Journal, digest
from tracer.record.nodes import Saved
from tracer.record.sources import UNKNOWN, Origin

__all__ = ["Rows", "describe_call", "describe_pieces", "describe_readings", "structure_of"]

Rows = tuple[tuple[int, bool, bool], ...]

_names = Interned()
_states = Interned()


def structure_of(graph: Graph, buffers: dict[int, int], journal: Journal) -> int:
    """The id of the graph's structure. `buffers` has the buffer that a node writes."""
    numbers: list[int] = []
    for index, seen in enumerate(graph.seen):
        kind, origin = seen.kind, _origin(seen)
        numbers += (
            _names((kind.name, kind.custom, origin.called)),
            -1 if origin.source is None else origin.source,
            -1 if origin.module is None else origin.module,
            buffers.get(index, -1),
        )
    for edge in graph.edges:
        numbers += edge
    key = digest(numbers)
    return journal.intern(Structure, key, lambda id: _structure(id, graph, buffers))


def _structure(id: int, graph: Graph, buffers: dict[int, int]) -> Structure:
    nodes = tuple(_node(index, seen, buffers) for index, seen in enumerate(graph.seen))
    return Structure(id, nodes, tuple(Edge(*edge) for edge in graph.edges))


def _origin(seen: NodeSeen) -> Origin:
    """A leaf's node is made by whichever line or replica used it first: it comes from nowhere."""
    return UNKNOWN if seen.kind.accumulates else seen.origin


def _node(index: int, seen: NodeSeen, buffers: dict[int, int]) -> Node:
    origin = _origin(seen)
    return Node(
        index=index,
        name=seen.kind.name,
        source=origin.source,
        module=origin.module,
        called=origin.called,
        custom=seen.kind.custom,
        buffer=buffers.get(index),
    )


def describe_call(
    journal: Journal,
    structure: int,
    graph: Graph,
    taken: Taken,
    rows: Rows,
    roots: Sequence[Root],
    captures: Sequence[Capture],
    readings: Sequence[Reading],
) -> int:
    """The id of a call's layout."""
    numbers = [structure]
    for seen in graph.seen:
        numbers += (_states((seen.saved.plain, _names_of(seen.saved))), *seen.hooks, seen.ran)
    for facts in (taken.contributions, taken.receipts):
        numbers.append(len(facts))
        for fact in facts:
            numbers += (-1 if part is None else part for part in fact)
    numbers += _tail(rows, captures, readings)
    numbers += (_states(tuple(roots)),)
    return journal.layout(
        digest(numbers),
        lambda: Layout(
            id=0,
            structure=structure,
            rows=rows,
            states=tuple(_node_states(graph)),
            contributions=tuple(Contribution(*fact) for fact in taken.contributions),
            receipts=tuple(Receipt(*fact) for fact in taken.receipts),
            roots=tuple(roots),
            captures=tuple(captures),
            readings=tuple(readings),
        ),
    )


def describe_readings(journal: Journal, rows: Rows, readings: Sequence[Reading]) -> int:
    """The id of the layout of a step or edit: it has readings only."""
    return journal.layout(
        digest([-1, *_tail(rows, (), readings)]),
        lambda: Layout(id=0, structure=None, rows=rows, readings=tuple(readings)),
    )


def describe_pieces(journal: Journal, rows: Rows, pieces: Sequence[Piece]) -> int:
    """The id of the layout of an exchange."""
    return journal.layout(
        digest([-2, *_tail(rows, (), ()), *(_states(piece) for piece in pieces)]),
        lambda: Layout(id=0, structure=None, rows=rows, pieces=tuple(pieces)),
    )


def _tail(rows: Rows, captures: Sequence[Capture], readings: Sequence[Reading]) -> list[int]:
    return [
        len(rows),
        *(int(part) for row in rows for part in row),
        *(_states(capture) for capture in captures),
        -1,
        *(_states(reading) for reading in readings),
    ]


def _names_of(saved: Saved) -> tuple[str, ...]:
    return tuple(name for name, _ in saved.numbers)


def _node_states(graph: Graph) -> list[NodeState]:
    """The states of all nodes; their numbers lie one after the other in `Call.scalars`."""
    states, first = [], 0
    for index, seen in enumerate(graph.seen):
        names = _names_of(seen.saved)
        plain: dict[str, Any] = dict(seen.saved.plain)
        states.append(NodeState(index, plain, names, first, seen.hooks, seen.ran))
        first += len(names)
    return states
