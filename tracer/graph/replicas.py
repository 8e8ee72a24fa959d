"""The sum over replicas, parameter by parameter.

`DataParallel` copies all parameters in one node, `BroadcastBackward`, in which all gradients of all
replicas meet, each at an input of its own. Drawn as it is, it ties the whole picture into one knot.
"""

from __future__ import annotations

from typing import Any

import networkx as nx

__all__ = ["REDUCER", "unbundled"]

REDUCER = "BroadcastBackward"


def unbundled(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """The graph with a node for each parameter in the place of every such node.

    Input i of the node belongs to parameter i modulo their number: the parameters of the first
    replica come first, then those of the second.
    """
    reducers = {
        key: _parameters(graph, key)
        for key, data in graph.nodes(data=True)
        if data["kind"] == "node" and data["name"] == REDUCER and graph.in_degree(key)
    }
    reducers = {key: count for key, count in reducers.items() if count > 1}
    if not reducers:
        return graph
    result: nx.MultiDiGraph = nx.MultiDiGraph()
    result.graph.update(graph.graph)
    for key, data in graph.nodes(data=True):
        for piece in _pieces(key, reducers):
            result.add_node(piece, **data)
    for u, v, key, data in graph.edges(keys=True, data=True):
        sender = f"{u}/{data['output']}" if u in reducers else u
        receiver = f"{v}/{data['input'] % reducers[v]}" if v in reducers else v
        result.add_edge(sender, receiver, key=key, **data)
    return result


def _pieces(key: str, reducers: dict[str, int]) -> list[str]:
    return [f"{key}/{number}" for number in range(reducers[key])] if key in reducers else [key]


def _parameters(graph: nx.MultiDiGraph, key: str) -> int:
    """How many parameters the node copied."""
    sent: list[dict[str, Any]] = [data for *_, data in graph.out_edges(key, data=True)]
    inputs = len(graph.nodes[key]["received"])
    copies = next((data["count"] for data in sent if data["count"]), None)
    if copies and inputs % copies == 0:
        return int(inputs // copies)
    return max((data["output"] + 1 for data in sent), default=0)
