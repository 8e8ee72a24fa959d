"""Deep graphs can be freed again after they were looked at.

NOTE [Freeing a deep graph]
Torch frees a graph without recursion, gathering the nodes that only the graph holds. A node that
Python has seen is held by its wrapper as well (since torch 2.13 the wrapper lives as long as the
node), is not gathered, and is freed by recursion: a chain of 100,000 nodes that were looked at ends
in a stack overflow, whoever looked (`del loss` after a walk over `next_functions` is enough). As we
look at every node we must stop the recursion: the graph is cut into bands by depth, and the first
nodes of each band are also held by a node at the head of the band above, in its metadata. The
metadata goes last, when the band above has been freed and the stack has unwound; then the next band
goes. Nothing lives longer than it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tracer.record.graphs import Graph

__all__ = ["guard"]

BAND = 1000
"""Nodes of a path within a band; a node takes some 100 bytes of stack, a thread's may be small."""

HELD = "tracer_held"


def guard(graph: Graph) -> None:
    """Let a graph be freed band by band, if it may be deep."""
    if len(graph) <= 2 * BAND:
        return
    if graph.plan.bands is None:
        graph.plan.bands = tuple(_bands(graph))
    for head, below in graph.plan.bands:
        _hold(graph, head, below)


def _bands(graph: Graph) -> Iterator[tuple[int, int]]:
    """The head of each band, with each of the first nodes of the band below."""
    depths = [0] * len(graph)
    heads = list(range(len(graph)))  # the head that a node stands under; a root is its own
    for node in _from_the_roots(graph):
        for below in graph.receivers(node):
            if depths[below] <= depths[node]:
                depths[below] = depths[node] + 1
                heads[below] = heads[node]
            if depths[below] // BAND != depths[node] // BAND:
                yield heads[node], below
                heads[below] = below


def _hold(graph: Graph, head: int, below: int) -> None:
    held = graph.nodes[head].metadata.setdefault(HELD, [])
    node = graph.nodes[below]
    if not any(known is node for known in held):
        held.append(node)


def _from_the_roots(graph: Graph) -> Iterator[int]:
    """Every node after all that send to it (Kahn's order)."""
    waiting = [0] * len(graph)
    for _, _, receiver, _ in graph.all_edges():
        waiting[receiver] += 1
    ready = deque(node for node, count in enumerate(waiting) if not count)
    while ready:
        node = ready.popleft()
        yield node
        for below in graph.receivers(node):
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
