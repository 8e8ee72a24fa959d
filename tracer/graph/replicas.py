"""The sum over replicas, parameter by parameter.

`DataParallel` copies all parameters in one node, `BroadcastBackward`, in which all gradients of all
replicas meet, each at an input of its own. Drawn as it is, it ties the whole picture into one knot.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import networkx as nx

from tracer.graph.chunks import GATHER, chunks_of_all

__all__ = ["NO_LANE", "REDUCER", "lanes_of", "unbundled"]

REDUCER = "BroadcastBackward"

NO_LANE: dict[str, Any] = {"lane": None, "device": None, "share": None}


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


def lanes_of(graph: nx.MultiDiGraph) -> dict[int, dict[str, Any]]:
    """Of each replica: where it ran, and how much of how much was gathered from it.

    The share is None where calls or outputs differ in it, and where scalars were gathered.
    """
    devices: dict[int, Counter[str]] = {}
    shares: dict[int, set[tuple[int, int] | None]] = {}
    chunks = chunks_of_all(graph)
    for sender, receiver, data in graph.edges(data=True):
        replica = graph.nodes[receiver].get("replica")
        if replica is None:
            continue
        devices.setdefault(replica, Counter())[data["device"]] += 1
        if graph.nodes[sender]["name"] == GATHER:
            sizes = chunks.get(sender)
            share = (sizes[data["output"]], sum(sizes)) if sizes and data["shape"] else None
            shares.setdefault(replica, set()).add(share)
    return {
        replica: {
            "lane": replica,
            "device": found.most_common(1)[0][0],
            "share": _only(shares.get(replica, set())),
        }
        for replica, found in devices.items()
    }


def _only(found: set[tuple[int, int] | None]) -> tuple[int, int] | None:
    return next(iter(found)) if len(found) == 1 else None
