"""The places where gradients are averaged and where they are added up, by line of code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx

__all__ = ["Place", "places_of"]

AVERAGES = frozenset({"averages", "loss-reduction"})
ADDS = frozenset({"broadcasts", "reduces", "sums"})

RANK = {"reduces": 1, "averages": 2, "loss-reduction": 2, "broadcasts": 3, "sums": 4}
"""What people look for first; the backward of a broadcast is the commonest and comes last."""


@dataclass(frozen=True)
class Place:
    """A line that averages or sums, in the words of its rule, and how many edges it does so on.

    `verb` is "averaged" or "summed"; `file` is "" for what has no line of its own.
    """

    verb: str
    words: str
    called: str
    file: str
    line: int
    times: int = 1


def places_of(graph: nx.MultiDiGraph[str]) -> list[Place]:
    """Every place in a graph, those first that explain most."""
    edges: Counter[tuple[int, Place]] = Counter()
    for sender, _, edge in graph.edges(data=True):
        rank = RANK.get(edge.get("effect") or "", 0)
        node = graph.nodes[sender]
        if rank and _matters(node, edge):
            edges[rank, _place(node, edge)] += 1
    ranked = sorted(edges.items(), key=lambda item: item[0][0])
    lines = [
        Place(place.verb, place.words, place.called, place.file, place.line, times)
        for (_, place), times in ranked
    ]
    return [*_repeated_calls(graph), *lines]


def _matters(node: dict[str, Any], edge: dict[str, Any]) -> bool:
    """Whether more than one item is averaged or added, and not by a layer for its own bias."""
    if edge["effect"] == "loss-reduction" and edge["words"] == "loss per item":
        return False
    return edge.get("count") != 1 and not (edge["effect"] == "sums" and node.get("module"))


def _place(node: dict[str, Any], edge: dict[str, Any]) -> Place:
    averages = edge["effect"] in AVERAGES and not edge["words"].startswith("sum")
    verb = "averaged" if averages else "summed"
    called = node.get("called") or ""
    return Place(verb, edge["words"], called, node.get("file") or "", node.get("line") or 0)


def _repeated_calls(graph: nx.MultiDiGraph[str]) -> Iterator[Place]:
    """Buffers to which several backward calls were added before they were emptied."""
    buffers: Counter[int] = Counter(
        max(node["runs"])
        for _, node in graph.nodes(data=True)
        if node.get("kind") == "buffer" and node.get("runs")
    )
    for calls, count in sorted(buffers.items(), reverse=True):
        if calls > 1:
            yield Place("summed", f"{calls} backward calls", _buffers(count), "", 0, count)


def _buffers(count: int) -> str:
    return f"in {count:,} buffer{'' if count == 1 else 's'}"
