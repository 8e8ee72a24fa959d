"""Making a folded graph smaller without losing what it says: quiet chains and wide fan-ins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

__all__ = ["chains_contracted", "fans_thinned", "lines_drawn_up", "merged", "shared_leaves_split"]

QUIET = frozenset({"moves", "elementwise", "gathers", "scatters", "selects", "nothing", None})
"""Effects that neither sum nor average nor scale as a whole."""

MOST_NEIGHBOURS = 12
"""Senders to one node, or receivers from one, that are drawn each for itself."""


def is_quiet(data: Mapping[str, Any]) -> bool:
    """Whether a node merely passes its gradient on, element by element."""
    return (
        data["kind"] in ("node", "chain")
        and data["fan_in"] <= 1
        and not data["hooks"]
        and all(e["effect"] in QUIET and e["summed"] in (1, None) for e in data["effects"])
    )


def chains_contracted(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Quiet operations that only get from a quiet one are drawn together with it.

    The result stays free of cycles: every way into the merged node leads through its first member.
    """
    parents: dict[str, str] = {}
    changed = True
    while changed:
        changed = False
        for node in graph:
            if node in parents or not is_quiet(graph.nodes[node]):
                continue
            senders = {_top(parents, sender) for sender in graph.predecessors(node)} - {node}
            if len(senders) != 1:
                continue
            sender = senders.pop()
            same_place = graph.nodes[sender]["cluster"] == graph.nodes[node]["cluster"]
            if same_place and is_quiet(graph.nodes[sender]):
                parents[node] = sender
                changed = True
    return merged(graph, {node: _top(parents, node) for node in graph}, "chain")


def lines_drawn_up(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Operations that follow one another without a branch become one node with several parts."""
    parents: dict[str, str] = {}
    for node in graph:
        senders = list(graph.predecessors(node))
        if len(senders) != 1 or not _is_operation(graph, node) or graph.nodes[node]["fan_in"] > 1:
            continue
        sender = senders[0]
        same_place = graph.nodes[sender]["cluster"] == graph.nodes[node]["cluster"]
        if _is_operation(graph, sender) and graph.out_degree(sender) == 1 and same_place:
            parents[node] = sender
    order = {node: _top(parents, node) for node in graph}
    return merged(graph, order, "chain")


def _is_operation(graph: nx.MultiDiGraph, node: str) -> bool:
    return graph.nodes[node]["kind"] in ("node", "chain")


def _top(parents: Mapping[str, str], node: str) -> str:
    while node in parents:
        node = parents[node]
    return node


def fans_thinned(graph: nx.MultiDiGraph, most: int = MOST_NEIGHBOURS) -> nx.MultiDiGraph:
    """Of many senders to one node, or receivers from it, the largest; the rest as "... n more"."""
    into: dict[str, str] = {node: node for node in graph}
    for node in list(graph):
        for neighbours in (_senders(graph, node), _receivers(graph, node)):
            free = [other for other in neighbours if into[other] == other and other != node]
            if len(neighbours) <= most:
                continue
            rest = free[most - 2 :]
            for other in rest:
                into[other] = rest[0]
    return merged(graph, into, "more")


def _senders(graph: nx.MultiDiGraph, node: str) -> list[str]:
    norms = {sender: data["norm"] or 0.0 for sender, _, data in graph.in_edges(node, data=True)}
    return sorted(norms, key=lambda key: -norms[key])


def _receivers(graph: nx.MultiDiGraph, node: str) -> list[str]:
    norms = {
        receiver: data["norm"] or 0.0 for _, receiver, data in graph.out_edges(node, data=True)
    }
    return sorted(norms, key=lambda key: -norms[key])


def merged(graph: nx.MultiDiGraph, into: Mapping[str, str], kind: str) -> nx.MultiDiGraph:
    """The graph with each node merged into another one (or itself); merged ones are of `kind`."""
    members: dict[str, list[str]] = {}
    for node in graph:
        members.setdefault(into[node], []).append(node)
    result: nx.MultiDiGraph = nx.MultiDiGraph()
    result.graph.update(graph.graph)
    for top, several in members.items():
        attributes = (
            graph.nodes[top] if len(several) == 1 else _merged_node(graph, top, several, kind)
        )
        result.add_node(top, **attributes)
    bundles: dict[tuple[str, str], dict[str, Any]] = {}
    for u, v, data in graph.edges(data=True):
        ends = into[u], into[v]
        if ends[0] == ends[1] and u != v:
            continue
        known = bundles.get(ends)
        bundles[ends] = dict(data) if known is None else _merged_edge(known, data)
    for (u, v), data in bundles.items():
        result.add_edge(u, v, key=0, **data)
    return result


def _merged_node(graph: nx.MultiDiGraph, top: str, several: list[str], kind: str) -> dict[str, Any]:
    parts = [graph.nodes[node] for node in several]
    first = dict(graph.nodes[top])
    steps = [part["name"] for part in parts]
    first.update(
        kind=kind,
        nodes=sum(part["nodes"] for part in parts),
        calls=tuple(sorted({call for part in parts for call in part["calls"]})),
        replicas=tuple(sorted({r for part in parts for r in part["replicas"]})),
        lines=_joined(line for part in parts for line in part["lines"]),
        names=tuple(Counter(steps).most_common()),
        chunks=tuple(dict.fromkeys(chunks for part in parts for chunks in part["chunks"])),
        effects=tuple(effect for part in parts for effect in part["effects"]),
        fan_in=graph.nodes[top]["fan_in"] if kind == "chain" else 0,
        fan_ins_inside=sum(part["fan_ins_inside"] for part in parts),
        hooks=sum(part["hooks"] for part in parts),
        norms_in=_range(part["norms_in"] for part in parts),
        norms_out=_range(part["norms_out"] for part in parts),
        merged=len(several),
        parts=tuple(part for each in _from_the_top(graph, several) for part in _parts(each)),
    )
    return first


def _from_the_top(graph: nx.MultiDiGraph, several: list[str]) -> list[dict[str, Any]]:
    """The merged nodes in the order in which the gradient passes them."""
    inside = graph.subgraph(several)
    waiting = {node: inside.in_degree(node) for node in several}
    ready = [node for node in several if not waiting[node]]
    order = []
    for node in ready:
        order.append(node)
        for receiver in inside.successors(node):
            waiting[receiver] -= inside.number_of_edges(node, receiver)
            if not waiting[receiver]:
                ready.append(receiver)
    order += [node for node in several if node not in order]
    return [graph.nodes[node] for node in order]


def _parts(data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The operations of a node, each with what it does and where it stands."""
    if data.get("parts"):
        return tuple(data["parts"])
    names = ("name", "names", "chunks", "nodes", "effects", "lines", "hooks", "calls", "copies")
    return ({name: data[name] for name in names},)


def _joined(lines: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Each line once, with all of its nodes."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        known = found.setdefault((line["file"], line["line"]), {**line, "nodes": 0})
        known["nodes"] += line["nodes"]
    return tuple(found.values())


def _range(ends: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [pair for pair in ends if pair is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _merged_edge(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    norms = [data["norm"] for data in (one, other) if data["norm"] is not None]
    return {
        **one,
        "count": one["count"] + other["count"],
        "calls": tuple(sorted({*one["calls"], *other["calls"]})),
        "norm": sum(norm * norm for norm in norms) ** 0.5 if norms else None,
        "norms": _range((one["norms"], other["norms"])),
        "nonfinite": one["nonfinite"] + other["nonfinite"],
        "shapes": tuple(dict.fromkeys((*one["shapes"], *other["shapes"]))),
        "dtypes": tuple(dict.fromkeys((*one["dtypes"], *other["dtypes"]))),
        "values": None,
        "effects": (*one["effects"], *other["effects"]),
    }


def shared_leaves_split(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """A leaf that several boxes write is drawn once for each: the first whole, the others dashed.

    Long edges across the picture are what makes layouts slow and hard to read. The boxes of one
    module in several lanes count as one.
    """
    result = graph.copy()
    for leaf, data in graph.nodes(data=True):
        if data["kind"] not in ("buffer", "buffers"):
            continue
        senders = list(graph.predecessors(leaf))
        boxes = [s for s in senders if graph.nodes[s]["kind"] == "module"]
        if len(senders) < 2 or not boxes:
            continue
        owner = leaf.replace("leaf:", "module:", 1)
        home = next((box for box in boxes if box == owner or box.startswith(f"{owner}@")), boxes[0])
        for sender in senders:
            if sender != home and not _is_other_lane(graph.nodes[sender], graph.nodes[home]):
                _move(result, sender, leaf)
    return result


def _is_other_lane(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["lane"] != other["lane"] and one["path"] and one["path"] == other["path"])


def _move(graph: nx.MultiDiGraph, sender: str, leaf: str) -> None:
    """Let the sender write a proxy of the leaf instead."""
    proxy = f"{leaf}@{sender}"
    edge = dict(graph.edges[sender, leaf, 0])
    norms = edge["norms"]
    graph.add_node(
        proxy,
        **{
            **graph.nodes[leaf],
            "kind": "proxy",
            "of": leaf,
            "cluster": graph.nodes[sender]["cluster"],
            "norms_in": norms,
        },
    )
    graph.remove_edge(sender, leaf, 0)
    graph.add_edge(sender, proxy, key=0, **edge)
