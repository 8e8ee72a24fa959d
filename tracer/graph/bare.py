"""A large graph with only what a picture of it needs: nodes that say the same share what they say.

The graph that `build` makes takes 5 kB for each node. Of a million nodes a picture shows a hundred
groups, and what it says of them are counts, names, lines and norms. So nodes that differ in their
measurements alone have one and the same attributes here, without measurements, and an edge looks
up, when it is asked, what is not of its norm. In a call that is large itself such nodes are one,
with their number: see `alike.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

import networkx as nx

from tracer.columns import Column, Nodes, leaves_of
from tracer.events import Call, Layout, Step, Structure
from tracer.graph.alike import (
    BareGraph,
    Crowd,
    Home,
    Range,
    Stream,
    alike_of,
    fan_ins,
    streams_of,
    uses_of,
)
from tracer.graph.build import Builder, Facts, Rows, described, measured
from tracer.graph.chunks import GATHER, SCATTER
from tracer.graph.fold import most_groups
from tracer.graph.grouping import MOST_USES
from tracer.graph.replicas import REDUCER
from tracer.graph.window import choose, size_of
from tracer.graph.wiring import Wiring, wiring_of
from tracer.semantics.effects import Effect
from tracer.tracefile import Trace

__all__ = ["LARGE", "BareGraph", "build_for_picture"]

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
    trace: Trace, *, step: int | None = None, call: int | None = None, depth: int | None = None
) -> nx.MultiDiGraph:
    """The graph of a window, as `build` makes it, to be folded to a depth: bare if it is large.

    Raises:
        NothingRecorded: the trace holds no backward call.
        UnknownName: no such step or call.
    """
    window = choose(trace, step, call)
    is_large = sum(size_of(trace, one) for _, one in window.calls) > LARGE
    is_bare = is_large and not any(
        name in OF_REPLICAS for _, one in window.calls for name in _names(trace, one)
    )
    builder = (
        BareBuilder(trace, most_groups(depth)) if is_bare else Builder(trace, nx.MultiDiGraph())
    )
    return builder.built(window)


def _names(trace: Trace, call: Call) -> Iterable[str]:
    """The names of the nodes of a call; of a large one each once."""
    structure = trace.layout(call.layout).structure
    nodes = () if structure is None else trace.structure(structure).nodes
    if isinstance(nodes, Nodes):
        return (name for name, *_ in nodes.kinds)
    return (node.name for node in nodes)


class BareEdge(dict[str, Any]):
    """The attributes of a contribution; its measurements but for the norm are read when needed."""

    __slots__ = ("row", "rows")
    rows: Rows
    row: int | None

    def __missing__(self, name: str) -> Any:
        return measured(self.rows.measurement(self.row))[name]


class BareBuilder(Builder):
    """Adds nodes and contributions in bulk; roots, captures, buffers and steps as ever."""

    def __init__(self, trace: Trace, few: int) -> None:
        self._bare = BareGraph()
        self._few = few
        self._next = 0
        super().__init__(trace, self._bare)

    def add_call(self, number: int, call: Call) -> None:
        layout = self._trace.layout(call.layout)
        structure = self._trace.structure(layout.structure if layout.structure is not None else -1)
        wiring = wiring_of(structure, layout)
        if wiring is not None:
            facts = self._add_crowds(number, call, layout, wiring)
        else:
            facts = self._add_each(number, call, layout, structure)
        rows = Rows(self._trace, self._trace.measured(call))
        self.add_roots(number, call, layout, rows)
        self.add_captures(number, call, layout, rows)
        self.add_accumulations(number, call, layout, facts, rows)
        self._give_places()

    def add_step(self, step: Step) -> None:
        super().add_step(step)
        self._give_places()

    def _give_places(self) -> None:
        """A place for each node that came last."""
        for key in islice(self._bare, len(self._bare.places), None):
            self._bare.places[key] = self._next
            self._next += 1

    def _add_each(self, number: int, call: Call, layout: Layout, structure: Structure) -> Facts:
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
        return facts

    def _add_crowds(self, number: int, call: Call, layout: Layout, wiring: Wiring) -> Facts:
        """The nodes of a large call: those that no picture tells apart as one."""
        scalars = self._trace.scalars(call)
        starts = [(root.node, root.input) for root in layout.roots]
        fan_in = fan_ins(wiring, starts)
        uses = uses_of(wiring, self._homes(wiring), MOST_USES)
        effects, effect = self._each_effect(wiring, scalars)
        apart = {*leaves_of(wiring.nodes), *(node for node, _ in starts)}
        apart |= {capture.node for capture in layout.captures}
        looks = list(zip(effect, fan_in, uses, strict=True))
        crowds, crowd = alike_of(wiring, looks, apart, self._few)
        structure = self._trace.structure(layout.structure if layout.structure is not None else -1)
        facts = Facts(
            structure,
            states={
                one.first: state
                for one in crowds
                if (state := wiring.states.of(one.first)) is not None
            },
            received={
                node: {0: (receipt.form, receipt.row)}
                for node in leaves_of(wiring.nodes)
                for receipt in map(layout.receipts.__getitem__, wiring.received[node])
            },
            sent={},
            fan_in={one.first: fan_in[one.first] for one in crowds},
            scalars=scalars,
        )
        rows = Rows(self._trace, self._trace.measured(call))
        self._add_crowd_nodes(number, call, facts, rows, crowds)
        for (sender, receiver, output), stream in streams_of(wiring, crowd).items():
            found = effects[effect[crowds[sender].first]][output]
            ends = (crowds[sender].first, crowds[receiver].first)
            self._add_stream(number, wiring, rows, stream, ends, found)
        return facts

    def _homes(self, wiring: Wiring) -> list[Home | None]:
        """For each kind of node its module, if that may have no parameters: path and replica."""
        buffers = (self._trace.buffers[buffer] for buffer in wiring.nodes.buffers.values())
        owners = {(home.root, home.path) for b in buffers if (home := self._names.home(b))}
        found: list[Home | None] = []
        for *_, module in wiring.nodes.kinds:
            place = self._names.place(module)
            is_free = place is not None and (place.root, place.path) not in owners
            found.append(((place.root, place.path), place.replica) if place and is_free else None)
        return found

    def _each_effect(
        self, wiring: Wiring, scalars: tuple[float, ...]
    ) -> tuple[list[tuple[Effect, ...]], Column]:
        """What nodes do; and which of it each node does."""
        effects: list[tuple[Effect, ...]] = []
        deeds = wiring.deeds(scalars)
        for node, deed in enumerate(deeds):
            if deed == len(effects):
                effects.append(self._effects_there(wiring, node, scalars))
        return effects, deeds

    def _effects_there(
        self, wiring: Wiring, index: int, scalars: tuple[float, ...]
    ) -> tuple[Effect, ...]:
        sent = {wiring.output[place]: wiring.form[place] for place in wiring.leaving[index]}
        if not sent:
            return ()
        receipts, state = wiring.receipts, wiring.states.of(index)
        received = {receipts.input[p]: receipts.form[p] for p in wiring.received[index]}
        facts = Facts(
            Structure(-1, (), ()), {} if state is None else {index: state}, {}, {}, {}, scalars
        )
        return self.effects_at(wiring.nodes[index], received, sent, facts.saved(index))

    def _add_crowd_nodes(
        self, number: int, call: Call, facts: Facts, rows: Rows, crowds: Sequence[Crowd]
    ) -> None:
        first = self._next
        for one in crowds:
            node, key = facts.structure.nodes[one.first], f"c{number}.n{one.first}"
            data = self.node_data(number, call, node, facts, rows)
            for name in OF_ONE_NODE:
                del data[name]
            if one.times > 1:
                data["times"] = one.times
            self._bare.add_node(key, **data)
            self._bare.places[key] = first + one.first
        self._next = first + len(facts.structure.nodes)

    def _add_stream(
        self, number: int, wiring: Wiring, rows: Rows, stream: Stream, ends: tuple[int, int],
        effect: Effect,
    ) -> None:  # fmt: skip
        place = stream.first
        data = BareEdge(
            kind="contribution", call=number, output=wiring.output[place],
            input=wiring.input[place], at=self._next - wiring.count + wiring.sender[place],
            **rows.form(wiring.form[place]), **described(effect),
        )  # fmt: skip
        measured_rows = [row for row in stream.rows if row >= 0]
        data.rows, data.row = rows, measured_rows[0] if measured_rows else None
        if len(stream.rows) == 1:
            data["norm"], data["nonfinite"] = (
                NO if data.row is None else rows.measurements.norm(data.row)
            )
        else:
            data.update(_together(rows, measured_rows), times=len(stream.rows))
        self._bare.template = data
        sender, receiver = (f"c{number}.n{end}" for end in ends)
        self._bare.add_edge(sender, receiver, key=wiring.number[place])
        self._bare.template = None

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


def _together(rows: Rows, measured_rows: Sequence[int]) -> dict[str, Any]:
    """What is told of the measurements of many contributions."""
    norms, squares, nonfinite = Range(), 0.0, 0
    for norm, count in map(rows.measurements.norm, measured_rows):
        norms.add(norm)
        nonfinite += count
        if math.isfinite(norm):
            squares += norm * norm
    return {"norms": norms, "squares": squares, "nonfinite": nonfinite}


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
