"""A large graph with only what a picture of it needs: nodes that say the same share what they say.

The graph that `build` makes takes 5 kB for each node. Of a million nodes a picture shows a hundred
groups, and what it says of them are counts, names, lines and norms. So nodes that differ in their
measurements alone have one and the same attributes here, without measurements, and an edge looks
up, when it is asked, what is not of its norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

import networkx as nx

from tracer.events import Call, Layout, Node, Structure
from tracer.graph.build import Builder, Facts, Rows, described, measured
from tracer.graph.chunks import GATHER, SCATTER
from tracer.graph.replicas import REDUCER
from tracer.graph.window import choose, size_of
from tracer.semantics.effects import Effect
from tracer.tracefile import Trace

__all__ = ["LARGE", "build_for_picture"]

LARGE = 20_000
"""Autograd nodes of a window from which on a graph is built bare."""

OF_REPLICAS = (GATHER, SCATTER, REDUCER)
"""Nodes of which a picture tells the shapes: with them a graph is built whole."""

OF_ONE_NODE = ("index", "saved", "received", "norm")
"""What tells nodes apart that are drawn alike."""

NO = (None, None)

Places = tuple[tuple[int, int], ...]
"""Inputs or outputs of a node, each with the form of the gradient there."""


def build_for_picture(
    trace: Trace, *, step: int | None = None, call: int | None = None
) -> nx.MultiDiGraph:
    """The graph of a window, as `build` makes it, to be folded: bare if it is large.

    Raises:
        NothingRecorded: the trace holds no backward call.
        UnknownName: no such step or call.
    """
    window = choose(trace, step, call)
    is_large = sum(size_of(trace, one) for _, one in window.calls) > LARGE
    is_bare = is_large and not any(
        node.name in OF_REPLICAS for _, one in window.calls for node in _nodes(trace, one)
    )
    builder = BareBuilder(trace) if is_bare else Builder(trace, nx.MultiDiGraph())
    return builder.built(window)


def _nodes(trace: Trace, call: Call) -> Sequence[Node]:
    structure = trace.layout(call.layout).structure
    return () if structure is None else trace.structure(structure).nodes


class BareGraph(nx.MultiDiGraph):
    """Takes the attributes of the next node, and what the next edge begins with, from outside."""

    shared: dict[str, Any] | None = None
    template: BareEdge | None = None

    def node_attr_dict_factory(self) -> dict[str, Any]:
        """What networkx gives a new node: the very dict that others have."""
        return {} if self.shared is None else self.shared

    def edge_attr_dict_factory(self) -> dict[str, Any]:
        return {} if self.template is None else self.template


class BareEdge(dict[str, Any]):
    """The attributes of a contribution; its measurements but for the norm are read when needed."""

    __slots__ = ("row", "rows")
    rows: Rows
    row: int | None

    def __missing__(self, name: str) -> Any:
        return measured(self.rows.measurement(self.row))[name]


class BareBuilder(Builder):
    """Adds nodes and contributions in bulk; roots, captures, buffers and steps as ever."""

    def __init__(self, trace: Trace) -> None:
        self._bare = BareGraph()
        super().__init__(trace, self._bare)

    def add_call(self, number: int, call: Call) -> None:
        layout = self._trace.layout(call.layout)
        structure = self._trace.structure(layout.structure if layout.structure is not None else -1)
        rows = Rows(self._trace, self._trace.measured(call))
        facts = Facts(
            structure,
            states={state.node: state for state in layout.states},
            received=_received_at_leaves(layout, structure),
            sent={},
            fan_in=_fan_in(layout, structure),
            scalars=self._trace.scalars(call),
        )
        self._add_nodes(number, call, facts, rows)
        self._add_edges(number, layout, structure, rows, self._all_effects(layout, facts))
        self.add_roots(number, call, layout, rows)
        self.add_captures(number, call, layout, rows)
        self.add_accumulations(number, call, layout, facts, rows)

    def _add_nodes(self, number: int, call: Call, facts: Facts, rows: Rows) -> None:
        shared: dict[Hashable, dict[str, Any]] = {}
        for node in facts.structure.nodes:
            state = facts.states.get(node.index)
            same = (
                node.name, node.source, node.module, node.called, node.custom, node.buffer,
                facts.fan_in.get(node.index), *((state.ran, state.hooks) if state else ()),
            )  # fmt: skip
            data = shared.get(same)
            if data is None:
                data = shared[same] = self.node_data(number, call, node, facts, rows)
                for name in OF_ONE_NODE:
                    del data[name]
            self._bare.shared = data
            self._bare.add_node(f"c{number}.n{node.index}")
        self._bare.shared = None

    def _all_effects(self, layout: Layout, facts: Facts) -> dict[int, tuple[Effect, ...]]:
        """What every node does; of those that look the same to a rule, one is asked."""
        received: dict[int, Places] = {}
        for receipt in layout.receipts:
            _put(received, receipt.node, receipt.input, receipt.form)
        sent: dict[int, Places] = {}
        for contribution in layout.contributions:
            edge = facts.structure.edges[contribution.edge]
            _put(sent, edge.sender, edge.output, contribution.form)
        alike: dict[Hashable, tuple[Effect, ...]] = {}
        found: dict[int, tuple[Effect, ...]] = {}
        for index, leaving in sent.items():
            node, arrived = facts.structure.nodes[index], received.get(index, ())
            same = (node.name, node.custom, arrived, leaving, facts.said(index))
            if same not in alike:
                saved = facts.saved(index)
                alike[same] = self.effects_at(node, dict(arrived), dict(leaving), saved)
            found[index] = alike[same]
        return found

    def _add_edges(
        self,
        number: int,
        layout: Layout,
        structure: Structure,
        rows: Rows,
        effects: dict[int, tuple[Effect, ...]],
    ) -> None:
        alike: dict[Hashable, dict[str, Any]] = {}
        for contribution in layout.contributions:
            edge, row = structure.edges[contribution.edge], contribution.row
            effect = effects[edge.sender][edge.output]
            same = (contribution.form, edge.output, edge.input, id(effect))
            if same not in alike:
                alike[same] = {
                    "kind": "contribution", "call": number, "output": edge.output,
                    "input": edge.input, **rows.form(contribution.form), **described(effect),
                }  # fmt: skip
            data = BareEdge(alike[same])
            data.rows, data.row = rows, row
            data["norm"], data["nonfinite"] = rows.measurements.norm(row) if row is not None else NO
            self._bare.template = data
            self._bare.add_edge(
                f"c{number}.n{edge.sender}", f"c{number}.n{edge.receiver}", key=contribution.edge
            )
        self._bare.template = None


def _put(places: dict[int, Places], node: int, place: int, form: int) -> None:
    """Add a place to those of a node: most nodes have one, and few differ in it."""
    places[node] = (*places.get(node, ()), (place, form))


def _received_at_leaves(
    layout: Layout, structure: Structure
) -> dict[int, dict[int, tuple[int, int | None]]]:
    leaves = {node.index for node in structure.nodes if node.buffer is not None}
    return {r.node: {0: (r.form, r.row)} for r in layout.receipts if r.node in leaves}


def _fan_in(layout: Layout, structure: Structure) -> dict[int, int]:
    """The most contributions that meet at one input of each node."""
    edges = [structure.edges[contribution.edge] for contribution in layout.contributions]
    places = ((edge.receiver, edge.input) for edge in edges)
    starts = ((root.node, root.input) for root in layout.roots)
    found: dict[int, int] = {}
    for (node, _), count in Counter(chain(starts, places)).items():
        found[node] = max(found.get(node, 0), count)
    return found
