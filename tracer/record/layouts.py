"""The facts of one event put in order: its structure, its layout, and their signatures."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, starmap
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
from tracer.record.graphs import NO_HOOKS, SHORT, Graph
from tracer.record.hooks import Taken
from tracer.record.journal import Interned, Journal, digest
from tracer.record.nodes import NodeKind, Saved
from tracer.record.sources import UNKNOWN, Origin

__all__ = [
    "Read",
    "Rows",
    "Start",
    "describe_call",
    "describe_pieces",
    "describe_readings",
    "structure_of",
]

Rows = tuple[tuple[int, bool, bool], ...]

Read = tuple[int, str, int, int | None]
"""A `Reading`: buffer, moment, form, row. There are two or three for each buffer in each step."""

Start = tuple[int, int, str, int, int | None, int | None]
"""A `Root`: node, input, name, form, gradient, value."""

MOST_LAYOUTS = 16
"""So many are remembered as they are, of one graph, and of all events that have none."""

_names = Interned()
_states = Interned()


def structure_of(graph: Graph, buffers: dict[int, int], journal: Journal) -> int:
    """The id of the graph's structure. `buffers` has the buffer that a node writes."""
    written = tuple(buffers.values())
    known = graph.plan.structures.get(written)
    if known is None:
        known = graph.plan.structures[written] = _intern_structure(graph, buffers, journal)
    return known


def _intern_structure(graph: Graph, buffers: dict[int, int], journal: Journal) -> int:
    numbers = array("q")
    for kind, origin in zip(graph.kinds, graph.origins, strict=True):
        numbers.append(_face(kind, origin))
    for node, buffer in buffers.items():
        numbers.extend((node, buffer))
    key = digest(numbers, graph.edges)
    return journal.intern(Structure, key, lambda id: _structure(id, graph, buffers))


_faces: dict[tuple[NodeKind, Origin], int] = {}


def _face(kind: NodeKind, origin: Origin) -> int:
    """A number for what the trace tells of a node beside its place."""
    face = _faces.get((kind, origin))
    if face is None:
        told = UNKNOWN if kind.accumulates else origin
        described = (kind.name, kind.custom, told.called, told.source, told.module)
        face = _faces[kind, origin] = _names(described)
    return face


def _structure(id: int, graph: Graph, buffers: dict[int, int]) -> Structure:
    nodes = tuple(
        _node(index, kind, origin, buffers)
        for index, (kind, origin) in enumerate(zip(graph.kinds, graph.origins, strict=True))
    )
    return Structure(id, nodes, tuple(Edge(*edge) for edge in graph.all_edges()))


def _node(index: int, kind: NodeKind, origin: Origin, buffers: dict[int, int]) -> Node:
    # A leaf's node is made by whichever line or replica used it first: it comes from nowhere.
    told = UNKNOWN if kind.accumulates else origin
    return Node(
        index=index,
        name=kind.name,
        source=told.source,
        module=told.module,
        called=told.called,
        custom=kind.custom,
        buffer=buffers.get(index),
    )


def describe_call(
    journal: Journal,
    structure: int,
    graph: Graph,
    taken: Taken,
    rows: Rows,
    roots: Sequence[Start],
    captures: Sequence[Capture],
    readings: Sequence[Read],
) -> int:
    """The id of a call's layout.

    In most calls all is where it was in an earlier one over such a graph.
    """
    if len(graph) > SHORT:
        return _intern_layout(journal, structure, graph, taken, rows, roots, captures, readings)
    key = (
        structure, rows, tuple(roots), tuple(readings), tuple(captures),
        tuple([saved.state if saved.state >= 0 else _state(saved) for saved in graph.saved]),
        tuple(graph.hooks.items()), bytes(graph.ran), taken.contributions.tobytes(),
        taken.receipts.tobytes(),
    )  # fmt: skip
    known = graph.plan.layouts.get(key)
    if known is None:
        known = _intern_layout(journal, structure, graph, taken, rows, roots, captures, readings)
        if len(graph.plan.layouts) >= MOST_LAYOUTS:
            graph.plan.layouts.clear()
        graph.plan.layouts[key] = known
    return known


def _intern_layout(
    journal: Journal,
    structure: int,
    graph: Graph,
    taken: Taken,
    rows: Rows,
    roots: Sequence[Start],
    captures: Sequence[Capture],
    readings: Sequence[Read],
) -> int:
    numbers = array("q", (structure, len(taken.contributions)))
    numbers.extend(_state(saved) for saved in graph.saved)
    for node, hooks in sorted(graph.hooks.items()):
        numbers.extend((node, *hooks))
    numbers.extend(_tail(rows, captures, readings))
    numbers.append(_states(tuple(roots)))
    return journal.layout(
        digest(numbers, graph.ran, taken.contributions, taken.receipts),
        lambda: Layout(
            id=0,
            structure=structure,
            rows=rows,
            states=tuple(_node_states(graph)),
            contributions=tuple(
                Contribution(edge, form, None if row < 0 else row)
                for edge, form, row in _by(3, taken.contributions)
            ),
            receipts=tuple(
                Receipt(node, place, form, None if row < 0 else row)
                for node, place, form, row in _by(4, taken.receipts)
            ),
            roots=tuple(starmap(Root, roots)),
            captures=tuple(captures),
            readings=tuple(starmap(Reading, readings)),
        ),
    )


def _by(count: int, numbers: array[int]) -> Iterator[tuple[int, ...]]:
    return zip(*[iter(numbers)] * count, strict=True)


def _state(saved: Saved) -> int:
    """A number for what a node saved, without the numbers that may differ between calls."""
    if saved.state < 0:
        saved.state = _states((saved.plain, _names_of(saved)))
    return saved.state


def describe_readings(journal: Journal, rows: Rows, readings: Sequence[Read]) -> int:
    """The id of the layout of a step or edit: it has readings only."""
    key = (rows, tuple(readings))
    known = journal.recent.get(key)
    if known is None:
        known = _intern_readings(journal, rows, readings)
        if len(journal.recent) >= MOST_LAYOUTS:
            journal.recent.clear()
        journal.recent[key] = known
    return known


def _intern_readings(journal: Journal, rows: Rows, readings: Sequence[Read]) -> int:
    return journal.layout(
        digest(array("q", (-1, *_tail(rows, (), readings)))),
        lambda: Layout(id=0, structure=None, rows=rows, readings=tuple(starmap(Reading, readings))),
    )


def describe_pieces(journal: Journal, rows: Rows, pieces: Sequence[Piece]) -> int:
    """The id of the layout of an exchange."""
    return journal.layout(
        digest(array("q", (-2, *_tail(rows, (), ()), *map(_states, pieces)))),
        lambda: Layout(id=0, structure=None, rows=rows, pieces=tuple(pieces)),
    )


def _tail(rows: Rows, captures: Sequence[Capture], readings: Sequence[Read]) -> Iterator[int]:
    yield len(rows)
    yield from chain.from_iterable(rows)
    yield from map(_states, captures)
    yield -1
    for buffer, moment, form, row in readings:
        yield from (buffer, _names(moment), form, -1 if row is None else row)


def _names_of(saved: Saved) -> tuple[str, ...]:
    return tuple(name for name, _ in saved.numbers)


def _node_states(graph: Graph) -> Iterator[NodeState]:
    """The states of all nodes; their numbers lie one after the other in `Call.scalars`."""
    first = 0
    known: dict[int, tuple[dict[str, Any], tuple[str, ...]]] = {}
    for index, saved in enumerate(graph.saved):
        state = _state(saved)
        if state not in known:
            known[state] = (dict(saved.plain), _names_of(saved))
        plain, names = known[state]
        hooks = graph.hooks.get(index, NO_HOOKS)
        yield NodeState(index, plain, names, first, hooks, bool(graph.ran[index]))
        first += len(names)
