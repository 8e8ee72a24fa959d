"""The graph between the loss and one parameter, with the factors that were measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from tracer.analysis.exact import proportion, rounding, said
from tracer.analysis.explain import Explanation
from tracer.events import Measurement
from tracer.graph.build import build
from tracer.graph.slice import between
from tracer.tracefile import Trace

__all__ = ["slice_of"]


def slice_of(one: Explanation, trace: Trace) -> nx.MultiDiGraph[str]:
    """What the gradient of one filling of a buffer passed, of all the calls that are in it."""
    orders = {entry.call for entry in one.ledger.history.entries}
    numbers = {n for n, call in enumerate(trace.calls, start=1) if call.order in orders}
    step = None if one.ledger.step is None else one.ledger.step.step
    graph = between(build(trace, step=step, calls=numbers), one.name)
    for sender, _, edge in graph.edges(data=True):
        if edge["effect"] == "opaque":
            _measure(graph.nodes[sender], edge)
    return graph


def _measure(node: Mapping[str, Any], edge: dict[str, Any]) -> None:
    """Of a function of the user's that multiplied all elements by one number, that number."""
    received = [tensor for tensor in node["received"] if tensor is not None]
    if not node["custom"] or len(received) != 1 or edge["elements"] < 2:
        return
    before, after = _measurement(received[0]), _measurement(edge)
    if before is None or after is None:
        return
    factor = proportion(
        [before], after, max(rounding(edge["dtype"]), rounding(received[0]["dtype"]))
    )
    if factor is not None:
        edge.update(effect="scales", factor=float(factor), words=f"x {said(factor)}, measured")


def _measurement(tensor: Mapping[str, Any]) -> Measurement | None:
    if tensor["norm"] is None:
        return None
    names = ("elements", "sum", "norm", "largest", "nonfinite", "fingerprint", "values")
    return Measurement(**{name: tensor[name] for name in names})
