"""The folded graph: a node for each group, an edge for each pair of groups, with what they hold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from tracer.graph.alike import Range, edges_in_order
from tracer.graph.chunks import Chunks, chunks_of_all
from tracer.graph.grouping import Group, Grouping, Plan
from tracer.graph.replicas import NO_LANE, lanes_of
from tracer.graph.siblings import Path

__all__ = ["quotient"]

MOST_LISTED = 12
"""Names, lines and parameters listed on one folded node; the rest is counted."""


@dataclass
class Tally:
    """What is collected for one group on the way through the graph."""

    members: list[str] = field(default_factory=list)
    nodes: int = 0
    calls: set[int] = field(default_factory=set)
    replicas: set[int] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    chunks: dict[Chunks, None] = field(default_factory=dict)
    called: Counter[str] = field(default_factory=Counter)
    lines: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    effects: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    fan_in: int = 0
    fan_ins_inside: int = 0
    copies_added: int = 0
    hooks: int = 0
    entering: Range = field(default_factory=Range)
    leaving: Range = field(default_factory=Range)


@dataclass
class Bundle:
    """The contributions from one group to another."""

    count: int = 0
    calls: set[int] = field(default_factory=set)
    squares: float = 0.0
    norms: Range = field(default_factory=Range)
    nonfinite: int = 0
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    values: tuple[Any, ...] | None = None
    effects: Counter[tuple[Any, ...]] = field(default_factory=Counter)


def quotient(graph: nx.MultiDiGraph, grouping: Grouping, plan: Plan) -> nx.MultiDiGraph:
    """The folded graph of a grouping. Keys are those of the groups' first nodes."""
    tallies = _tallied(graph, grouping.groups)
    bundles = _bundled(graph, grouping, tallies)
    copies = grouping.tree.copies(plan)
    keys = {group: _key(group, tally) for group, tally in tallies.items()}
    folded: nx.MultiDiGraph = nx.MultiDiGraph()
    for group, tally in tallies.items():
        folded.add_node(keys[group], **_node(graph, group, tally, copies))
    for (sender, receiver), bundle in bundles.items():
        folded.add_edge(keys[sender], keys[receiver], key=0, **_edge(bundle))
    _leave_lanes(folded)
    folded.graph.update(graph.graph)
    folded.graph["view"] = "folded"
    folded.graph["steps_taken"] = _steps(graph)
    folded.graph["clusters"] = _clusters(graph, folded, copies)
    folded.graph["replicas"] = tuple(sorted({r for t in tallies.values() for r in t.replicas}))
    return folded


def _key(group: Group, tally: Tally) -> str:
    box = group.mark if isinstance(group.mark, Group) else group
    if box.kind == "module" and box.mark is None:
        lane = f"@{box.lane}" if box.lane is not None else ""
        return f"{group.kind}:{'.'.join(group.path)}{lane}"
    return tally.members[0] if group.kind != "leaf" else f"leaf:{tally.members[0]}"


def _tallied(graph: nx.MultiDiGraph, groups: dict[str, Group]) -> dict[Group, Tally]:
    tallies: defaultdict[Group, Tally] = defaultdict(Tally)
    chunks = chunks_of_all(graph)
    for key, group in groups.items():
        data = graph.nodes[key]
        tally = tallies[group]
        if data["kind"] == "node" and data["buffer"] is not None:
            tally.fan_in = max(tally.fan_in, data["fan_in"])
            tally.hooks += data["hooks_before"] + data["hooks_after"] + data["hooks_buffer"]
            continue
        if group.kind in ("buffer", "leaf") and data["kind"] == "node":
            tally.copies_added = max(tally.copies_added, graph.in_degree(key))
            continue
        times = data.get("times", 1)
        tally.members.append(key)
        tally.nodes += times
        tally.names[data["name"]] += times
        if key in chunks:
            tally.chunks[chunks[key]] = None
        if data.get("call") is not None:
            tally.calls.add(data["call"])
        if data.get("file"):
            tally.lines[data["file"], data["line"], data["function"]] += times
        if data["kind"] == "node":
            tally.called[data["called"]] += times
            tally.hooks += times * (data["hooks_before"] + data["hooks_after"])
            if data["replica"] is not None:
                tally.replicas.add(data["replica"])
    return {group: tally for group, tally in tallies.items() if tally.members}


def _bundled(
    graph: nx.MultiDiGraph, grouping: Grouping, tallies: dict[Group, Tally]
) -> dict[tuple[Group, Group], Bundle]:
    bundles: defaultdict[tuple[Group, Group], Bundle] = defaultdict(Bundle)
    groups = grouping.groups
    entered: set[str] = set()
    for u, v, data in edges_in_order(graph):
        sender, receiver = groups.get(u), groups.get(v)
        if sender is None or receiver is None or data["kind"] == "accumulation":
            continue
        if sender not in tallies or receiver not in tallies:
            continue
        if data["effect"] is not None:
            tallies[sender].effects[_effect(data)] += data.get("times", 1)
        if sender == receiver:
            continue
        if _repeats(grouping, u, v):
            entered.add(v)
            continue
        if receiver.kind not in ("buffer", "leaf"):
            _widen(tallies[sender].leaving, data)
        _widen(tallies[receiver].entering, data)
        entered.add(v)
        _collect(bundles[sender, receiver], data)
    for key, group in groups.items():
        fan_in = graph.nodes[key].get("fan_in", 0)
        if fan_in > 1 and graph.nodes[key].get("buffer") is None:
            if key in entered:
                tallies[group].fan_in = max(tallies[group].fan_in, fan_in)
            else:
                tallies[group].fan_ins_inside += graph.nodes[key].get("times", 1)
    return dict(bundles)


def _repeats(grouping: Grouping, u: str, v: str) -> bool:
    """Whether the edge leads from one of several repeated modules to its neighbour."""
    tree = grouping.tree
    sender, receiver = tree.paths[u], tree.paths[v]
    if sender == receiver:
        return False
    for length in range(1, min(len(sender), len(receiver)) + 1):
        if sender[:length] != receiver[:length]:
            shown = grouping.shown
            return shown(sender[:length]) == shown(receiver[:length])
    return False


def _effect(data: dict[str, Any]) -> tuple[Any, ...]:
    return (data["effect"], data["factor"], data["count"], data["summed"], data["words"])


def _widen(norms: Range, data: dict[str, Any]) -> None:
    if "norms" in data:
        norms.join(data["norms"])
    else:
        norms.add(data["norm"])


def _collect(bundle: Bundle, data: dict[str, Any]) -> None:
    times = data.get("times", 1)
    bundle.count += times
    if data["call"] is not None:
        bundle.calls.add(data["call"])
    _widen(bundle.norms, data)
    if "squares" in data:
        bundle.squares += data["squares"]
    elif (norm := data["norm"]) is not None and math.isfinite(norm):
        bundle.squares += norm * norm
    bundle.nonfinite += data["nonfinite"] or 0
    bundle.shapes.add(data["shape"])
    bundle.dtypes.add(data["dtype"])
    bundle.values = data["values"] if bundle.count == 1 else None
    if data["effect"] is not None:
        bundle.effects[_effect(data)] += times


def _node(
    graph: nx.MultiDiGraph, group: Group, tally: Tally, copies: dict[Path, int]
) -> dict[str, Any]:
    common: dict[str, Any] = {
        "kind": _kind(group, tally),
        "name": tally.names.most_common(1)[0][0],
        "nodes": tally.nodes,
        "calls": tuple(sorted(tally.calls)),
        "replicas": tuple(sorted(tally.replicas)),
        "copies": copies.get(group.path, 1),
        "lines": _most(tally.lines),
        "called": tally.called.most_common(1)[0][0] if tally.called else "",
        "names": tuple(tally.names.most_common(MOST_LISTED)),
        "chunks": tuple(tally.chunks)[:MOST_LISTED],
        "effects": _effects(tally.effects),
        "fan_in": tally.fan_in,
        "fan_ins_inside": tally.fan_ins_inside,
        "hooks": tally.hooks,
        "norms_in": tally.entering.ends,
        "norms_out": tally.leaving.ends,
        "lane": group.lane,
        "cluster": _around(group.path[:-1] if group.kind == "module" else group.path, group.lane),
        "path": group.path if group.kind == "module" else (),
    }
    first = graph.nodes[tally.members[0]]
    if group.kind == "module":
        common["module_class"] = _class(graph, group.path, first)
        common["use"] = group.mark
    if group.kind in ("buffer", "leaf"):
        if isinstance(group.mark, Group) and group.mark.kind == "module":
            common["cluster"] = _around(group.path[:-1], group.lane)
        common.update(_leaf(graph, tally.members), replicas_added=tally.copies_added)
    if group.kind == "root":
        common.update(
            values=tuple(graph.nodes[m]["values"] for m in tally.members[:MOST_LISTED]),
            shape=first["shape"],
            entry=first["entry"],
            outcome=first["outcome"],
        )
    return common


def _kind(group: Group, tally: Tally) -> str:
    if group.kind == "op" and len(tally.names) > 1:
        return "chain"
    return {"op": "node", "leaf": "buffers"}.get(group.kind, group.kind)


def _class(graph: nx.MultiDiGraph, path: Path, first: dict[str, Any]) -> str:
    """The class of a shown module; of a repeated one that of the first it stands for."""
    concrete: Path = (first["root"], *first["module"].split(".")) if first["module"] else path[:1]
    classes = graph.graph.get("classes", {}).get(concrete[0], {})
    return str(classes.get(".".join(concrete[1 : len(path)]), ""))


def _leaf(graph: nx.MultiDiGraph, members: list[str]) -> dict[str, Any]:
    """What is shown of the buffers of one leaf."""
    shown = [graph.nodes[key] for key in members[:MOST_LISTED]]
    runs = sorted({max(graph.nodes[key]["runs"], default=0) for key in members})
    times = sorted({len(graph.nodes[key]["runs"]) for key in members})
    norms = Range()
    for key in members:
        norms.add(graph.nodes[key]["norm"])
    return {
        "parameters": tuple(data["name"] for data in shown),
        "shapes": tuple(data["shape"] for data in shown),
        "norms": tuple(data["norm"] for data in shown),
        "norms_all": norms.ends,
        "values": shown[0]["values"] if len(members) == 1 else None,
        "summed_calls": (runs[0], runs[-1]),
        "emptied": times[-1],
        "is_added_to": any(graph.nodes[key]["is_added_to"] for key in members),
        "history": shown[0]["history"] if len(members) == 1 else (),
        "is_parameter": shown[0]["is_parameter"],
    }


def _edge(bundle: Bundle) -> dict[str, Any]:
    return {
        "kind": "bundle",
        "count": bundle.count,
        "calls": tuple(sorted(bundle.calls)),
        "norm": math.sqrt(bundle.squares) if bundle.norms.ends or bundle.norms.nonfinite else None,
        "norms": bundle.norms.ends,
        "nonfinite": bundle.nonfinite,
        "shapes": tuple(sorted(bundle.shapes))[:MOST_LISTED],
        "dtypes": tuple(sorted(bundle.dtypes)),
        "values": bundle.values,
        "effects": _effects(bundle.effects),
    }


def _effects(counter: Counter[tuple[Any, ...]]) -> tuple[dict[str, Any], ...]:
    names = ("effect", "factor", "count", "summed", "words", "times")
    listed = counter.most_common(4 * MOST_LISTED)
    return tuple(dict(zip(names, (*effect, times), strict=True)) for effect, times in listed)


def _most(lines: Counter[tuple[str, int, str]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"file": file, "line": line, "function": function, "nodes": nodes}
        for (file, line, function), nodes in lines.most_common(MOST_LISTED)
    )


def _steps(graph: nx.MultiDiGraph) -> tuple[dict[str, Any], ...]:
    """The optimizer steps of the window, which are told, not drawn."""
    return tuple(
        {
            "name": data["name"],
            "file": data["file"],
            "line": data["line"],
            "buffers": graph.in_degree(key),
            "options": data["options"],
        }
        for key, data in graph.nodes(data=True)
        if data["kind"] == "step"
    )


def _around(path: Path, lane: int | None) -> Path:
    """The boxes around a node: those of modules, and inside the outermost that of its replica."""
    return path if lane is None else (*path[:1], f"replica {lane}", *path[1:])


def _leave_lanes(folded: nx.MultiDiGraph) -> None:
    """What several lanes write stands between them, in the box of the whole model."""
    for key, data in folded.nodes(data=True):
        lanes = {folded.nodes[sender]["lane"] for sender in folded.predecessors(key)}
        if data["kind"] in ("buffer", "buffers") and len(lanes) > 1:
            data["cluster"] = data["cluster"][:1]


def _clusters(
    graph: nx.MultiDiGraph, folded: nx.MultiDiGraph, copies: dict[Path, int]
) -> tuple[dict[str, Any], ...]:
    """The opened modules and the lanes of replicas, outermost first."""
    classes = graph.graph.get("classes", {})
    modules: dict[Path, Path] = {}
    lanes: dict[Path, int] = {}
    for _, data in folded.nodes(data=True):
        around, lane = data["cluster"], data["lane"]
        place = len(around) if lane is None else min(1, len(around) - 1)
        for length in range(1, len(around) + 1):
            modules[around[:length]] = around[:place] + around[place + 1 : length]
        modules.update({around[:length]: around[:length] for length in range(1, place + 1)})
        if lane is not None:
            lanes[around[: place + 1]] = lane
    facts = lanes_of(graph) if lanes else {}
    stacked = _stacked(folded)
    return tuple(
        {
            "path": path,
            "module_class": _class_at(classes, modules[path]) if path not in lanes else "",
            "copies": copies.get(modules[path], 1) if path not in lanes else 1,
            "replicas": len(stacked.get(path, ())),
            **(facts[lanes[path]] if path in lanes else NO_LANE),
        }
        for path in sorted(modules, key=len)
    )


def _stacked(folded: nx.MultiDiGraph) -> dict[Path, set[int]]:
    """The replicas that lie on one another in the box of each whole model."""
    found: dict[Path, set[int]] = {}
    for _, data in folded.nodes(data=True):
        if len(data["replicas"]) > 1:
            found.setdefault(data["cluster"][:1], set()).update(data["replicas"])
    return found


def _class_at(classes: dict[str, dict[str, str]], path: Path) -> str:
    return classes.get(path[0], {}).get(".".join(map(_first, path[1:])), "")


def _first(name: str) -> str:
    """The first of the modules that "[3-7]" stands for."""
    return name[1:].partition("-")[0] if name.startswith("[") else name
