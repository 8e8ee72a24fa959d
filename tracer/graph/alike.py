"""Nodes of a large call that are drawn alike, as one: how many, and what they sent to others.

Two nodes are alike if no picture tells them apart: they have the same name, line and module, do the
same to the gradient, and get it from nodes that are alike. A picture that shows operations one by
one has room for few; so nodes of which there are few stay what they are.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from tracer.columns import Column, numbered
from tracer.graph.wiring import Wiring

__all__ = [
    "BareGraph",
    "Crowd",
    "Range",
    "Stream",
    "alike_of",
    "edges_in_order",
    "fan_ins",
    "size",
    "streams_of",
    "uses_of",
]

Home = tuple[Hashable, Hashable]
"""A module by its path, and the replica that it is of."""


@dataclass
class Range:
    """The smallest and largest of some norms."""

    low: float = math.inf
    high: float = -math.inf
    nonfinite: bool = False

    def add(self, norm: float | None) -> None:
        if norm is None:
            return
        if not math.isfinite(norm):
            self.nonfinite = True
            return
        self.low, self.high = min(self.low, norm), max(self.high, norm)

    def join(self, other: Range) -> None:
        """Those of the other too."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.nonfinite = self.nonfinite or other.nonfinite

    @property
    def ends(self) -> tuple[float, float] | None:
        return (self.low, self.high) if self.low <= self.high else None


class BareGraph(nx.MultiDiGraph):
    """Some of its nodes stand for several, and its edges for what these sent.

    A node has then `times`, how many it stands for; an edge `times`, `at`, the place of the first
    of its senders, `norms` (a `Range`) and `squares`, the sum of theirs. `places` has the place of
    each node among all, were they there one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, int] = {}
        self.shared: dict[str, Any] | None = None
        self.template: dict[str, Any] | None = None

    def node_attr_dict_factory(self) -> dict[str, Any]:
        """What networkx gives a new node: the very dict that others have."""
        return {} if self.shared is None else self.shared

    def edge_attr_dict_factory(self) -> dict[str, Any]:
        return {} if self.template is None else self.template


def size(graph: nx.MultiDiGraph) -> int:
    """How many nodes a graph has, or stands for."""
    return sum(data.get("times", 1) for _, data in graph.nodes(data=True))


def edges_in_order(graph: nx.MultiDiGraph) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """The edges with their attributes, by the place of the first sender."""
    edges: Iterable[tuple[str, str, dict[str, Any]]] = graph.edges(data=True)
    if not isinstance(graph, BareGraph):
        return edges
    places = graph.places
    return sorted(edges, key=lambda edge: edge[2].get("at", places[edge[0]]))


@dataclass
class Crowd:
    """Nodes that are drawn alike: the first of them, and how many there are."""

    first: int
    times: int = 0


@dataclass
class Stream:
    """What the nodes of one crowd sent along one output to those of another.

    `first` is the place of the first contribution in the wiring, `rows` what was measured of each;
    -1 where nothing was.
    """

    first: int
    rows: list[int] = field(default_factory=list)


def alike_of(
    wiring: Wiring, looks: Sequence[Hashable], apart: Collection[int], few: int
) -> tuple[list[Crowd], Column]:
    """The crowds, in the order of their first nodes, and the crowd of each node.

    `looks` is what tells nodes apart beside their senders; those of `apart` stay alone, and those
    of which there are only a `few`.
    """
    known, look_of = numbered(looks)
    limit, counts = len(known), Counter(look_of)
    alone = array("q", (1 if counts[kind] <= few else 0 for kind in range(limit)))
    # Of a node that stays alone the number is its own, behind those of the kinds.
    kinds = array("q", (limit + node if alone[kind] else kind for node, kind in enumerate(look_of)))
    for node in apart:
        kinds[node] = limit + node
    return _crowds(_by_senders(wiring, kinds, limit))


def _by_senders(wiring: Wiring, kinds: Column, limit: int) -> Sequence[Hashable]:
    """The kinds, where several gradients meet also by who sent them."""
    starts, rows = wiring.arriving.starts, wiring.arriving.rows
    found: list[Hashable] = list(kinds)
    for node, kind in enumerate(kinds):
        first, last = starts[node], starts[node + 1]
        if last - first > 1 and kind < limit:
            senders = (wiring.sender[rows[place]] for place in range(first, last))
            found[node] = (kind, frozenset(kinds[sender] for sender in senders))
    return found


def _crowds(kinds: Sequence[Hashable]) -> tuple[list[Crowd], Column]:
    each, column = numbered(kinds)
    counts = Counter(column)
    crowds = [Crowd(-1, counts[number]) for number in range(len(each))]
    known: set[int] = set()
    for node, number in enumerate(column):
        if number not in known:
            known.add(number)
            crowds[number].first = node
    return crowds, column


def streams_of(wiring: Wiring, crowd: Column) -> dict[tuple[int, int, int], Stream]:
    """By crowd of the sender, crowd of the receiver and output: what was sent."""
    found: dict[tuple[int, int, int], Stream] = {}
    columns = (wiring.sender, wiring.receiver, wiring.output, wiring.row)
    for place, (sender, receiver, output, row) in enumerate(zip(*columns, strict=True)):
        key = (crowd[sender], crowd[receiver], output)
        known = found.get(key)
        if known is None:
            known = found[key] = Stream(place)
        known.rows.append(row)
    return found


def fan_ins(wiring: Wiring, starts: Sequence[tuple[int, int]]) -> Column:
    """The most contributions that meet at one input of each node; `starts` are those of roots."""
    found = array("q", wiring.arriving.counts())
    several = {node for node, count in enumerate(found) if count > 1}
    for node in several | {node for node, _ in starts}:
        inputs = Counter(wiring.input[place] for place in wiring.arriving[node])
        inputs.update(place for start, place in starts if start == node)
        found[node] = max(inputs.values())
    return found


def uses_of(wiring: Wiring, homes: Sequence[Home | None], most: int) -> Column:
    """Of the nodes in a module, which of its uses each belongs to: what hangs together there.

    `homes` is the module of each kind of node, None where that does not matter: there it is 0. All
    uses beyond `most` have one number.
    """
    found = array("q", [0]) * wiring.count
    if not any(homes):
        return found
    home_of = [homes[kind] for kind in wiring.nodes.kind]
    tops = list(range(wiring.count))

    def top(node: int) -> int:
        while tops[node] != node:
            tops[node] = tops[tops[node]]
            node = tops[node]
        return node

    for sender, receiver in zip(wiring.sender, wiring.receiver, strict=True):
        one, other = home_of[sender], home_of[receiver]
        if one is not None and other is not None and one[0] == other[0]:
            tops[top(receiver)] = top(sender)
    numbers: dict[Home, dict[int, int]] = {}
    for node, home in enumerate(home_of):
        if home is not None:
            known = numbers.setdefault(home, {})
            found[node] = min(known.setdefault(top(node), len(known) + 1), most + 1)
    return found
