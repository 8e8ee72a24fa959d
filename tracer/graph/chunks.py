"""Into which chunks DataParallel splits a batch: what the gradients at its ends have for shapes.

The dimension is not recorded. It is the one along which the chunks add up to the whole, while they
agree with it in all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from tracer.events import Shape

__all__ = ["GATHER", "SCATTER", "Chunks", "chunks_of", "chunks_of_all"]

GATHER = "GatherBackward"
SCATTER = "ScatterBackward"

Chunks = tuple[int, ...]


def chunks_of_all(graph: nx.MultiDiGraph) -> dict[str, Chunks]:
    """The chunks of every node that splits a gradient or puts one together."""
    found = {}
    for key, data in graph.nodes(data=True):
        if data["kind"] == "node" and data["name"] in (GATHER, SCATTER):
            chunks = _of_node(graph, key)
            if chunks:
                found[key] = chunks
    return found


def _of_node(graph: nx.MultiDiGraph, key: str) -> Chunks | None:
    received = [tensor["shape"] for tensor in graph.nodes[key]["received"] if tensor is not None]
    outputs = {data["output"]: data["shape"] for *_, data in graph.out_edges(key, data=True)}
    sent = [outputs[output] for output in sorted(outputs)]
    if graph.nodes[key]["name"] == GATHER:
        return chunks_of(sent, received)
    return chunks_of(received, sent)


def chunks_of(parts: Sequence[Shape], wholes: Sequence[Shape]) -> Chunks | None:
    """The sizes of the parts along the dimension in which they are parts; None where unclear.

    A single part is no chunk. Scalars are gathered as a vector.
    """
    if len(parts) < 2 or len(wholes) != 1:
        return None
    whole = wholes[0]
    if not any(parts) and whole == (len(parts),):
        return (1,) * len(parts)
    if any(len(part) != len(whole) for part in parts):
        return None
    for dim in range(len(whole)):
        sizes = tuple(part[dim] for part in parts)
        rest = whole[:dim] + whole[dim + 1 :]
        agree = all(part[:dim] + part[dim + 1 :] == rest for part in parts)
        if agree and sum(sizes) == whole[dim]:
            return sizes
    return None
