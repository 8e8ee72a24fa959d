"""A folded graph as Graphviz source: boxes of the size of their cards, modules as clusters.

`source` stands on its own: `dot -Tpng` draws it plainly; every name in it is quoted, whatever it
holds. `plan` is what the layout program gets: the same without a word of text, and with the
parameters of a box beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx

from tracer.graph.export import quoted
from tracer.graph.siblings import Path
from tracer.views import labels
from tracer.views.cards import Card, Row, cards
from tracer.views.style import CLUSTERS, FACES, MUTED
from tracer.views.widths import edge_width, norm_range

__all__ = [
    "BESIDE",
    "beside",
    "cluster_title",
    "edge_label",
    "numbered",
    "plan",
    "quoted",
    "source",
]

BESIDE = 22.0
"""Pixels between a box and the parameters at its side."""

POINTS = 72
PORT = "box"
LEAVES = ("buffer", "buffers", "proxy")
LABELLED_EDGES = 26
"""Graphs of at most so many edges have a number on each of them."""


def numbered(graph: nx.MultiDiGraph) -> dict[str, str]:
    """A plain name for each node: n0, n1, ..."""
    return {key: f"n{number}" for number, key in enumerate(graph)}


def source(graph: nx.MultiDiGraph) -> str:
    """The whole source of a folded graph, with what is written on it."""
    return "\n".join(_lines(graph, cards(graph), {}, True)) + "\n"


def plan(graph: nx.MultiDiGraph, shown: Mapping[str, Card]) -> str:
    """What the layout program needs to know: sizes, boxes in boxes and edges."""
    return "\n".join(_lines(graph, shown, beside(graph), False)) + "\n"


def beside(graph: nx.MultiDiGraph) -> dict[str, str]:
    """For each leaf that only one box writes, that box: they are placed side by side."""
    pairs: dict[str, str] = {}
    for leaf, data in graph.nodes(data=True):
        senders = list(graph.predecessors(leaf))
        if data["kind"] in LEAVES and len(senders) == 1 and not graph.out_degree(leaf):
            box = senders[0]
            if graph.nodes[box]["kind"] == "module" and box not in pairs.values():
                pairs[leaf] = box
    return pairs


def _lines(
    graph: nx.MultiDiGraph, shown: Mapping[str, Card], pairs: Mapping[str, str], is_read: bool
) -> Iterator[str]:
    names = numbered(graph)
    yield "digraph gradients {"
    yield '  graph [rankdir=TB, nodesep=0.28, ranksep=0.25, fontname="Helvetica", fontsize=11];'
    yield '  node [shape=box, style=filled, fixedsize=true, fontname="Helvetica", fontsize=9];'
    yield '  edge [arrowsize=0.6, fontname="Helvetica", fontsize=12];'
    leaves = {box: leaf for leaf, box in pairs.items()}
    nodes: dict[str, str] = {}
    for key, name in names.items():
        if key in pairs:
            continue
        leaf = leaves.get(key)
        nodes[key] = (
            _node(shown[key], name, is_read)
            if leaf is None
            else _pair(shown[key], shown[leaf], name)
        )
    yield from _clustered(graph, nodes)
    for line in (*_rows(graph, names), *_edges(graph, names, pairs, is_read)):
        yield f"  {line}"
    yield "}"


def _tree(graph: nx.MultiDiGraph) -> dict[Path, list[Path]]:
    """The opened modules inside each opened module."""
    inside: dict[Path, list[Path]] = {(): []}
    for cluster in graph.graph.get("clusters", ()):
        inside.setdefault(cluster["path"], [])
        inside[cluster["path"][:-1]].append(cluster["path"])
    return inside


def _clustered(graph: nx.MultiDiGraph, nodes: Mapping[str, str]) -> Iterator[str]:
    """Every node in the box of its module, without recursion: trees can be deep."""
    members: dict[Path, list[str]] = {}
    for key, line in nodes.items():
        members.setdefault(graph.nodes[key]["cluster"], []).append(line)
    numbers = {c["path"]: n for n, c in enumerate(graph.graph.get("clusters", ()))}
    inside = _tree(graph)
    stack: list[tuple[Path, bool]] = [((), False)]
    while stack:
        path, is_closing = stack.pop()
        level = "  " * len(path)
        if is_closing:
            yield f"{level}}}"
            continue
        if path:
            yield f"{level}subgraph cluster_{numbers[path]} {{"
            yield _opening(graph, path)
            stack.append((path, True))
        stack.extend((below, False) for below in reversed(inside.get(path, [])))
        for line in members.get(path, []):
            yield f"{level}  {line}"


def _opening(graph: nx.MultiDiGraph, path: Path) -> str:
    face = CLUSTERS[min(len(path), len(CLUSTERS)) - 1]
    return (
        f"{'  ' * len(path)}  graph [label={quoted(' '.join(cluster_title(graph, path)))}, "
        f'labeljust=r, margin=9, style="rounded,filled", fillcolor="{face.fill}", '
        f'color="{face.stroke}"];'
    )


def cluster_title(graph: nx.MultiDiGraph, path: Path) -> tuple[str, str]:
    """The name of an opened module, and its class."""
    cluster = next(c for c in graph.graph["clusters"] if c["path"] == path)
    if cluster["lane"] is not None:
        return path[-1], _lane(cluster)
    times = f"  × {cluster['copies']}" if cluster["copies"] > 1 else ""
    times = times if path[-1].startswith("[") else ""
    if cluster["replicas"] > 1:
        times += f"  × {cluster['replicas']} replicas"
    return labels.clipped(path[-1], 34) + times, labels.clipped(cluster["module_class"], 34)


def _lane(cluster: Mapping[str, Any]) -> str:
    share = cluster["share"]
    return "  ·  ".join(
        (labels.clipped(cluster["device"], 34), *(["{} of {}".format(*share)] if share else []))
    )


def _node(card: Card, name: str, is_read: bool) -> str:
    face = FACES[card.face]
    label = "\n".join(_row_text(row) for row in card.rows) if is_read else ""
    return (
        f"{name} [label={quoted(label)}, width={card.width / POINTS:.3f}, "
        f'height={card.height / POINTS:.3f}, fillcolor="{face.fill}", color="{face.stroke}", '
        f'fontcolor="{face.text}"];'
    )


def _row_text(row: Row) -> str:
    return "  ".join(filter(None, (row.text, *(pill.text for pill in row.pills), row.beside)))


def _pair(box: Card, leaf: Card, name: str) -> str:
    """A box and its parameters as one node, whose edges begin and end at the box."""
    height = max(box.height, leaf.height)
    cells = "".join(
        f'<TD{port} FIXEDSIZE="TRUE" WIDTH="{round(width)}" HEIGHT="{height:g}"></TD>'
        for port, width in (
            (f' PORT="{PORT}"', box.width), ("", BESIDE), ("", leaf.width)
        )
    )  # fmt: skip
    table = (
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0"><TR>{cells}</TR></TABLE>'
    )
    return f"{name} [shape=plain, style=solid, fixedsize=false, label=<{table}>];"


def _rows(graph: nx.MultiDiGraph, names: Mapping[str, str]) -> Iterator[str]:
    """The calls stand side by side, in their order."""
    roots = [names[key] for key, data in graph.nodes(data=True) if data["kind"] == "root"]
    if len(roots) > 1:
        yield f"{{rank=same; {' -> '.join(roots)} [style=invis];}}"


def _edges(
    graph: nx.MultiDiGraph, names: Mapping[str, str], pairs: Mapping[str, str], is_read: bool
) -> Iterator[str]:
    norms = norm_range(graph)
    is_labelled = has_numbers(graph)
    boxes = set(pairs.values())
    for number, (u, v, data) in enumerate(graph.edges(data=True)):
        if u == v or pairs.get(v) == u:
            continue
        to_leaf = graph.nodes[v]["kind"] in (*LEAVES, "capture")
        tail = f"{names[u]}:{PORT}:s" if u in boxes else names[u]
        head = f"{names[v]}:{PORT}:n" if v in boxes else names[v]
        text = edge_label(data) if is_labelled else ""
        label = f", label={quoted(text if is_read else (len(text) + 2) * 'n')}" if text else ""
        yield (
            f"{tail} -> {head} [id=e{number}, weight={1 if to_leaf else 4}, "
            f'penwidth={edge_width(data, norms):.2f}, color="{MUTED}"{label}];'
        )


def has_numbers(graph: nx.MultiDiGraph) -> bool:
    """Whether each edge has its number written on it: in small pictures without boxes."""
    boxes = any(data["kind"] == "module" for _, data in graph.nodes(data=True))
    return not boxes and graph.number_of_edges() <= LABELLED_EDGES


def edge_label(data: Mapping[str, object]) -> str:
    """The number on an edge: its value if it is one number, else its norm."""
    values = data["values"]
    if isinstance(values, tuple) and len(values) == 1:
        return labels.number(values[0])
    norms = data["norms"]
    return f"|g| {labels.between(norms)}" if isinstance(norms, tuple) else ""
