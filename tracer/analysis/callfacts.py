"""One backward call with everything at hand: who sent what to whom, and what each node does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tracer.analysis.exact import proportion, rounding
from tracer.events import Call, Edge, Form, Layout, Measurement, Node, NodeState, Structure
from tracer.semantics.effects import Effect, Exact
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import effects_of
from tracer.tracefile import Trace

__all__ = ["CallFacts", "Sent", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """A gradient somewhere in a call: its form, and what was measured of it, if anything."""

    form: Form
    measured: Measurement | None

    @property
    def elements(self) -> int:
        return self.form.elements


@dataclass(frozen=True)
class Sent:
    """A contribution: the edge it took and what it was."""

    number: int
    edge: Edge
    tensor: Tensor


class CallFacts:
    """The structure, receipts and contributions of one call, by node."""

    def __init__(self, trace: Trace, call: Call) -> None:
        self.trace = trace
        self.call = call
        self.layout: Layout = trace.layout(call.layout)
        number = self.layout.structure
        self.structure = Structure(-1, (), ()) if number is None else trace.structure(number)
        self._measured = trace.measurements(call)
        self._scalars = trace.scalars(call)
        self._states = {state.node: state for state in self.layout.states}
        self._effects: dict[int, tuple[Effect, ...]] = {}
        self.received: dict[int, dict[int, Tensor]] = defaultdict(dict)
        for receipt in self.layout.receipts:
            self.received[receipt.node][receipt.input] = self.tensor(receipt.form, receipt.row)
        self.leaving: dict[int, list[Sent]] = defaultdict(list)
        self.arriving: dict[int, list[Sent]] = defaultdict(list)
        for contribution in self.layout.contributions:
            edge = self.structure.edges[contribution.edge]
            sent = Sent(contribution.edge, edge, self.tensor(contribution.form, contribution.row))
            self.leaving[edge.sender].append(sent)
            self.arriving[edge.receiver].append(sent)
        self.readings = {(r.buffer, r.moment): r for r in self.layout.readings}

    def tensor(self, form: int, row: int | None) -> Tensor:
        measured = None if row is None else self._measured[row]
        return Tensor(self.trace.forms[form], measured)

    def node(self, index: int) -> Node:
        return self.structure.nodes[index]

    @cached_property
    def writers(self) -> dict[int, int]:
        """The node that writes each buffer."""
        return {n.buffer: n.index for n in self.structure.nodes if n.buffer is not None}

    @cached_property
    def outgoing(self) -> dict[int, list[Edge]]:
        """Every edge of a node, with a contribution or without."""
        found: dict[int, list[Edge]] = defaultdict(list)
        for edge in self.structure.edges:
            found[edge.sender].append(edge)
        return found

    def state(self, node: int) -> NodeState:
        return self._states.get(node, NodeState(node, ran=False))

    def saved(self, node: int) -> dict[str, Any]:
        state = self.state(node)
        numbers = self._scalars[state.first : state.first + len(state.numbers)]
        return {**state.saved, **dict(zip(state.numbers, numbers, strict=False))}

    def effect(self, sent: Sent) -> Effect:
        """What the sender did to what it received, on the way to this edge."""
        sender = sent.edge.sender
        if sender not in self._effects:
            self._effects[sender] = effects_of(self._node_facts(sender))
        return self._effects[sender][sent.edge.output]

    def _node_facts(self, index: int) -> NodeFacts:
        node = self.node(index)
        received = self.received.get(index, {})
        sent = {s.edge.output: s.tensor.form.shape for s in self.leaving[index]}
        return NodeFacts(
            node.name,
            received=tuple(
                received[i].form.shape if i in received else None
                for i in range(max(received, default=-1) + 1)
            ),
            sent=tuple(sent.get(i) for i in range(max(sent, default=-1) + 1)),
            saved=self.saved(index),
            custom=node.custom,
        )

    @cached_property
    def order(self) -> list[int]:
        """The nodes that ran, senders before receivers (graphs are deep: no recursion)."""
        waiting = {node: len(sent) for node, sent in self.arriving.items()}
        ready = [node for node in dict.fromkeys(r.node for r in self.layout.roots)
                 if not waiting.get(node)]  # fmt: skip
        found: list[int] = []
        while ready:
            node = ready.pop()
            found.append(node)
            for sent in self.leaving.get(node, ()):
                waiting[sent.edge.receiver] -= 1
                if not waiting[sent.edge.receiver]:
                    ready.append(sent.edge.receiver)
        return found

    def arrivals(self, node: int, place: int) -> Iterator[Tensor]:
        """What was sent to an input of a node, roots included."""
        for root in self.layout.roots:
            if (root.node, root.input) == (node, place) and root.gradient is not None:
                yield self.tensor(root.form, root.gradient)
        for sent in self.arriving.get(node, ()):
            if sent.edge.input == place:
                yield sent.tensor

    def changed(self, node: int, place: int) -> Exact | None:
        """c where a node received c x the sum of what was sent to it; None if no such factor."""
        received = self.received.get(node, {}).get(place)
        parts = list(self.arrivals(node, place))
        if received is None or received.measured is None:
            return None
        measured = [part.measured for part in parts if part.measured is not None]
        if len(measured) < len(parts):
            return None
        tolerance = max(rounding(t.form.dtype) for t in (*parts, received))
        return proportion(measured, received.measured, tolerance)

    @cached_property
    def roots_at(self) -> dict[int, list[int]]:
        """The positions of the roots at each node."""
        found: dict[int, list[int]] = defaultdict(list)
        for position, root in enumerate(self.layout.roots):
            found[root.node].append(position)
        return found
