"""Who sent what to whom in a large call: by numbers, without an object for a node or an edge."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, islice
from operator import le, sub

from tracer.columns import Column, Contributions, Edges, Nodes, Receipts, States, numbered
from tracer.events import Layout, Structure

__all__ = ["Places", "Wiring", "wiring_of"]


class Places:
    """The rows of a column that name each node, in the order of the rows."""

    def __init__(self, column: Column, nodes: int) -> None:
        self.starts = _starts(column, nodes)
        """Where the rows of each node begin among `rows`; those of the next node are behind."""
        is_sorted = isinstance(column, range) or all(map(le, column, islice(column, 1, None)))
        everything = range(len(column))
        self.rows: Column = (
            everything if is_sorted else array("q", sorted(everything, key=column.__getitem__))
        )

    def __getitem__(self, node: int) -> Sequence[int]:
        return self.rows[self.starts[node] : self.starts[node + 1]]

    def counts(self) -> list[int]:
        """How many rows each node has."""
        return list(map(sub, islice(self.starts, 1, None), self.starts))

    def taken(self, column: Column) -> Column:
        """Another column of the table, in the order of `rows`."""
        if isinstance(self.rows, range):
            return column
        return array("q", map(column.__getitem__, self.rows))


def _starts(column: Column, nodes: int) -> Column:
    if isinstance(column, range) and column.step == 1 and 0 <= column.start <= column.stop <= nodes:
        before, behind = array("q", [0]) * column.start, nodes - column.stop
        counting = array("q", range(len(column)))
        return before + counting + array("q", [len(column)]) * (behind + 1)
    counts = [0] * nodes
    for node in column:
        counts[node] += 1
    return array("q", accumulate(counts, initial=0))


def _told(nodes: Column, places: Column, forms: Column, count: int) -> Column:
    """A number for each node: the same where the same forms are at the same places."""
    if nodes == range(count) and len(set(places)) == 1:
        return forms
    found = array("q", [0]) * count
    known: dict[tuple[int, int, int], int] = {}
    for node, place, form in zip(nodes, places, forms, strict=True):
        told = (found[node], place, form)
        found[node] = known.setdefault(told, len(known) + 1)
    return found


class Wiring:
    """The contributions and receipts of a large call, by node.

    The columns of the contributions are those of their edges, with form and row beside; all are in
    the order of the contributions.
    """

    def __init__(
        self,
        nodes: Nodes,
        edges: Edges,
        contributions: Contributions,
        receipts: Receipts,
        states: States,
    ) -> None:
        self.nodes = nodes
        self.states = states
        self.edges = edges
        self.receipts = receipts
        self.count = len(nodes)
        self.number = contributions.edge
        self.form = contributions.form
        self.row = contributions.row
        is_each = self.number == range(len(edges))
        self.sender, self.output, self.receiver, self.input = (
            column if is_each else array("q", map(column.__getitem__, self.number))
            for column in (edges.sender, edges.output, edges.receiver, edges.input)
        )
        self.leaving = Places(self.sender, self.count)
        self.arriving = Places(self.receiver, self.count)
        self.received = Places(receipts.node, self.count)
        self.outgoing = self.leaving if is_each else Places(edges.sender, self.count)

    @cached_property
    def likeness(self) -> Column:
        """A number for each node: nodes with the same one look the same to a rule.

        They have the same name and state, and received and sent the same forms at the same places.
        What they are told in numbers (`NodeState.numbers`) may differ.
        """
        received = _told(self.receipts.node, self.receipts.input, self.receipts.form, self.count)
        sent = _told(self.sender, self.output, self.form, self.count)
        return numbered(zip(self.nodes.kind, self.said, received, sent, strict=True))[1]

    @cached_property
    def said(self) -> Column:
        """The kind of the state of each node; -1 where nothing was read on it."""
        states = self.states
        if states.node == range(self.count):
            return states.kind
        found = array("q", [-1]) * self.count
        for node, kind in zip(states.node, states.kind, strict=True):
            found[node] = kind
        return found

    def deeds(self, scalars: Sequence[float]) -> Column:
        """A number for each node: nodes with the same one do the same.

        They look the same to a rule, and are told the same numbers, of those of their call.
        """
        counts = [len(kind.numbers) for kind in self.states.kinds]
        if not any(counts):
            return self.likeness
        states, is_each = self.states, self.states.node == range(self.count)
        first = states.first if is_each else self._first
        _, column = numbered(
            (look, scalars[at : at + counts[said]]) if said >= 0 and counts[said] else look
            for look, said, at in zip(self.likeness, self.said, first, strict=True)
        )
        return column

    @cached_property
    def _first(self) -> Column:
        found = array("q", [0]) * self.count
        for node, first in zip(self.states.node, self.states.first, strict=True):
            found[node] = first
        return found

    def order(self, roots: Sequence[int]) -> list[int]:
        """The nodes that ran, senders before receivers; of a chain one right after the other."""
        waiting = self.arriving.counts()
        starts, receivers = self.leaving.starts, self.leaving.taken(self.receiver)
        ready = [node for node in dict.fromkeys(roots) if not waiting[node]]
        found: list[int] = []
        while ready:
            node = ready.pop()
            found.append(node)
            first, last = starts[node], starts[node + 1]
            while last - first == 1 and waiting[receivers[first]] == 1:
                node = receivers[first]
                waiting[node] = 0
                found.append(node)
                first, last = starts[node], starts[node + 1]
            for place in range(first, last):
                node = receivers[place]
                waiting[node] -= 1
                if not waiting[node]:
                    ready.append(node)
        return found


def wiring_of(structure: Structure, layout: Layout) -> Wiring | None:
    """None of a call that is not large."""
    nodes, edges = structure.nodes, structure.edges
    contributions, receipts, states = layout.contributions, layout.receipts, layout.states
    if (
        isinstance(nodes, Nodes)
        and isinstance(edges, Edges)
        and isinstance(contributions, Contributions)
        and isinstance(receipts, Receipts)
        and isinstance(states, States)
    ):
        return Wiring(nodes, edges, contributions, receipts, states)
    return None
