"""The part of a graph that lies between its roots and one parameter."""

from __future__ import annotations

from collections import deque

import networkx as nx

from tracer.graph.names import matching

__all__ = ["between"]


def between(graph: nx.MultiDiGraph, parameter: str) -> nx.MultiDiGraph:
    """Everything that the gradient of one parameter passes, from the roots to its buffer.

    The name may be the end of the parameter's, if only one ends so.

    Raises:
        UnknownName: no parameter, or several, are meant.
    """
    named = {data["name"]: key for key, data in graph.nodes(data=True) if data["kind"] == "buffer"}
    name = matching(parameter, named)
    found = {named[name]}
    queue = deque(found)
    while queue:
        for sender in graph.predecessors(queue.popleft()):
            if sender not in found:
                found.add(sender)
                queue.append(sender)
    found.update(r for r in graph.successors(named[name]) if graph.nodes[r]["kind"] == "step")
    return _part(graph, found, name)


def _part(graph: nx.MultiDiGraph, keys: set[str], name: str) -> nx.MultiDiGraph:
    """The nodes and the edges between them, in their order (that of `nx.subgraph` is a set's)."""
    part: nx.MultiDiGraph = nx.MultiDiGraph()
    part.graph.update(graph.graph, parameter=name)
    part.add_nodes_from((key, data) for key, data in graph.nodes(data=True) if key in keys)
    for u, v, key, data in graph.edges(keys=True, data=True):
        if u in keys and v in keys:
            part.add_edge(u, v, key=key, **data)
    return part
