"""One graph, walked without recursion; and what graphs of one structure have in common."""

from __future__ import annotations

import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from tracer.record.journal import digest
from tracer.record.nodes import TENSOR_HOOKS, NodeKind, Saved, kind_of, saved_of
from tracer.record.sources import UNKNOWN, Mark, Origin

__all__ = ["ALONE", "KEPT", "NO_HOOKS", "SHORT", "Graph", "Hooks", "Plan", "Plans"]

Hooks = tuple[int, int, int]

NO_HOOKS: Hooks = (0, 0, 0)

ALONE, KEPT = 1, 2
"""What is marked of an edge: nothing else meets its end; its end is a leaf's, and so a buffer."""

SHORT = 1000
"""Nodes of graphs whose links are compared one by one; of longer ones by a signature."""

MOST_NODES = 2**15
"""Nodes of all graphs together whose plans are kept."""


class Plan:
    """What follows from the links of a graph alone: worked out for the first graph that has them.

    A training loop builds the same graph again in each iteration, of other nodes.
    """

    __slots__ = (
        "bands", "edge_of", "edges", "fed", "first", "has_custom", "has_lazy", "layouts", "marks",
        "more_fed", "nodes", "structures",
    )  # fmt: skip

    def __init__(
        self,
        links: Sequence[int],
        roots: Iterable[tuple[int, int]],
        kinds: Sequence[NodeKind],
        origins: Sequence[Origin],
    ) -> None:
        self.nodes = len(kinds)
        self.edges = array("q")
        """Four numbers each: sender, output, receiver, input."""
        self.first = array("q")
        """Where in `edge_of` the outputs of a node begin."""
        self.edge_of = array("q")
        """For each output its edge, -1 where there is none."""
        self.marks = bytearray()
        """Of each edge: `ALONE`, `KEPT`."""
        self.fed = array("q", [-1]) * self.nodes
        """The edge that alone feeds the first input of a node, -1 where there is none."""
        self.more_fed: dict[tuple[int, int], int] = {}
        """The same of further inputs, by node and input."""
        self.structures: dict[tuple[int, ...], int] = {}
        """Ids in the trace, by the buffers that the leaves write."""
        self.layouts: dict[tuple[object, ...], int] = {}
        """Ids in the trace of the layouts of the calls over such a graph."""
        self.bands: tuple[tuple[int, int], ...] | None = None
        """How a deep one is held: see `tracer.record.deep`."""
        self._number(links)
        self._mark(roots, kinds)
        self.has_custom = any(kind.custom for kind in kinds)
        self.has_lazy = any(
            origin.lazy and not kind.accumulates
            for kind, origin in zip(kinds, origins, strict=True)
        )

    def _number(self, links: Sequence[int]) -> None:
        edges, edge_of, first = self.edges, self.edge_of, self.first
        at = count = 0
        for number in range(self.nodes):
            first.append(len(edge_of))
            outputs, at = links[at + 2], at + 3
            for output in range(outputs):
                receiver, at = links[at], at + 1
                if receiver < 0:
                    edge_of.append(-1)
                    continue
                edge_of.append(count)
                edges.extend((number, output, receiver, links[at]))
                at += 1
                count += 1

    def _mark(self, roots: Iterable[tuple[int, int]], kinds: Sequence[NodeKind]) -> None:
        """Which edges meet nothing else at their end, not even a root's gradient."""
        met: set[tuple[int, int] | int] = set()
        shared: set[tuple[int, int] | int] = set()
        for receiver, place in (*roots, *zip(self.edges[2::4], self.edges[3::4], strict=True)):
            key = (receiver, place) if place else receiver
            if key in met:
                shared.add(key)
            else:
                met.add(key)
        for edge, (receiver, place) in enumerate(
            zip(self.edges[2::4], self.edges[3::4], strict=True)
        ):
            is_alone = ((receiver, place) if place else receiver) not in shared
            self.marks.append(ALONE * is_alone + KEPT * kinds[receiver].accumulates)
            if is_alone and place:
                self.more_fed[receiver, place] = edge
            elif is_alone:
                self.fed[receiver] = edge


class Plans:
    """The plans that were used last, by the links of their graphs."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[int, ...] | bytes, Plan] = OrderedDict()
        self._nodes = 0
        self._lock = threading.RLock()  # a finalizer may come back here

    def plan(
        self,
        links: list[int],
        roots: list[tuple[int, int]],
        kinds: list[NodeKind],
        origins: list[Origin],
    ) -> Plan:
        """The plan of a graph with these links."""
        key = tuple(links) if len(kinds) <= SHORT else digest(array("q", links))
        for root in roots:
            key += root if isinstance(key, tuple) else b"%d %d " % root  # type: ignore[operator]
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = Plan(links, roots, kinds, origins)
                self._nodes += plan.nodes
                while self._nodes > MOST_NODES and self._plans:
                    self._nodes -= self._plans.popitem(last=False)[1].nodes
            else:
                self._plans.move_to_end(key)
        return plan


class Graph:
    """The graph reached from some nodes, walked without recursion: graphs are 10^6 nodes deep.

    Its columns have one item for each node, in the order of the walk. Edges are numbered sender by
    sender, by output.
    """

    def __init__(self, roots: Iterable[tuple[Any, int]], plans: Plans | None = None) -> None:
        self.nodes: list[Any] = []
        self.kinds: list[NodeKind] = []
        self.origins: list[Origin] = []
        self.saved: list[Saved] = []
        self.index: dict[Any, int] = {}
        self.leaves: dict[int, torch.Tensor] = {}
        """The tensor of each node that accumulates."""
        self.tensor_hooks: set[int] = set()
        """Nodes on whose tensor somebody has placed a hook at some time."""
        self.hooks: dict[int, Hooks] = {}
        """Hooks of the user: see `NodeState.hooks`; nodes that have none are left out."""
        self._roots: list[tuple[int, int]] = []
        links = self._walk(roots)
        self.plan = (plans or Plans()).plan(links, self._roots, self.kinds, self.origins)
        self.edges, self.first, self.edge_of = (
            self.plan.edges, self.plan.first, self.plan.edge_of,
        )  # fmt: skip
        self.ran = bytearray(len(self.nodes))
        self.runs_python = self.plan.has_custom or self.plan.has_lazy
        """Whether code of the user may run while the engine does."""

    def __len__(self) -> int:
        return len(self.nodes)

    def edge(self, number: int) -> tuple[int, int, int, int]:
        """Sender, output, receiver, input."""
        return tuple(self.edges[4 * number : 4 * number + 4])  # type: ignore[return-value]

    def all_edges(self) -> Iterator[tuple[int, int, int, int]]:
        numbers = iter(self.edges)
        return zip(numbers, numbers, numbers, numbers, strict=True)

    def receivers(self, node: int) -> Iterator[int]:
        """The nodes that a node sends to."""
        end = self.first[node + 1] if node + 1 < len(self.first) else len(self.edge_of)
        return (self.edges[4 * e + 2] for e in self.edge_of[self.first[node] : end] if e >= 0)

    def outputs(self, node: int) -> Iterator[tuple[int, int, int]]:
        """Of each output that goes somewhere its number, the receiver and the input there."""
        end = self.first[node + 1] if node + 1 < len(self.first) else len(self.edge_of)
        for edge in self.edge_of[self.first[node] : end]:
            if edge >= 0:
                _, output, receiver, place = self.edge(edge)
                yield output, receiver, place

    def times_fed(self) -> Counter[tuple[int, int]]:
        """How many contributions and gradients of roots each input of a node gets."""
        fed = Counter(self._roots)
        fed.update((receiver, place) for _, _, receiver, place in self.all_edges())
        return fed

    def _walk(self, roots: Iterable[tuple[Any, int]]) -> list[int]:
        """The links: of each node its kind, origin, how many outputs; of these where they go."""
        nodes, index, kinds, origins = self.nodes, self.index, self.kinds, self.origins
        find = index.get
        links: list[int] = []
        for node, place in roots:
            number = index.setdefault(node, len(nodes))
            if number == len(nodes):
                nodes.append(node)
            self._roots.append((number, place))
        for number, node in enumerate(nodes):  # which grows meanwhile
            kind = kind_of(node)
            metadata = node.metadata
            mark = metadata.get("traceback_")
            origin = mark.origin if type(mark) is Mark else UNKNOWN
            # A node that double backward made holds on to the node it came from: no need.
            if "parent_" in metadata:
                del metadata["parent_"]
            if TENSOR_HOOKS in metadata:
                self.tensor_hooks.add(number)
            kinds.append(kind)
            origins.append(origin)
            if kind.accumulates:
                self.leaves[number] = node.variable
            self.saved.append(saved_of(node, kind, origin.lazy))
            following = node.next_functions
            links += (kind.number, origin.number, len(following))
            for below, place in following:
                if below is None:
                    links.append(-1)
                    continue
                receiver = find(below)
                if receiver is None:
                    receiver = index[below] = len(nodes)
                    nodes.append(below)
                links += (receiver, place)
        return links
