"""Which nodes a call runs again that an earlier one ran already, and retained the graph of."""

from __future__ import annotations

from typing import Any

from tracer.record.graphs import Graph

__all__ = ["Retained"]

RAN_IN = "tracer_ran_in"
"""Where the order of that call is noted, in a node's metadata: it lives as long as the node."""


class Retained:
    """Marks the nodes of retained graphs. A run that retains none pays nothing."""

    def __init__(self) -> None:
        self._any = False

    def mark(self, graph: Graph, order: int) -> None:
        """Note that these nodes run in this call, and may run again."""
        self._any = True
        for node, kind in zip(graph.nodes, graph.kinds, strict=True):
            if not kind.accumulates:
                node.metadata[RAN_IN] = order

    def met(self, graph: Graph) -> tuple[tuple[int, int], ...]:
        """The nodes that ran before, those only that no other such node leads to."""
        if not self._any:
            return ()
        orders = [_earlier(node) for node in graph.nodes]
        behind = {
            receiver
            for sender, _, receiver, _ in graph.all_edges()
            if orders[sender] is not None and orders[sender] == orders[receiver]
        }
        return tuple(
            (index, order)
            for index, order in enumerate(orders)
            if order is not None and index not in behind
        )


def _earlier(node: Any) -> int | None:
    order: int | None = node.metadata.get(RAN_IN)
    return order
