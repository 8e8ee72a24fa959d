"""One backward call with everything at hand: who sent what to whom, and what each node does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar, cast, overload

from tracer.analysis.exact import proportion, rounding
from tracer.columns import Column, leaves_of, states_of
from tracer.events import Call, Edge, Form, Layout, Measurement, Node, NodeState, Structure
from tracer.graph.wiring import Wiring, wiring_of
from tracer.semantics.effects import Effect, Exact
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import effects_of
from tracer.tracefile import Trace

__all__ = ["CallFacts", "Sent", "Tensor"]

ONE = Fraction(1)

D = TypeVar("D")
V = TypeVar("V", bound="dict[int, Tensor] | list[Sent] | list[Edge]")


class Tensor:
    """A gradient somewhere in a call: its form, and what was measured of it, if anything.

    With a `row`, `measured` are those of a whole event, of which it is one: it is looked up when
    somebody asks. Of the many gradients of a large graph hardly any is.
    """

    __slots__ = ("_measured", "_row", "elements", "form")

    def __init__(
        self, form: Form, measured: Measurement | Sequence[Measurement] | None, row: int = -1
    ) -> None:
        self.form = form
        self.elements = form.elements
        self._measured = measured
        self._row = row

    @property
    def measured(self) -> Measurement | None:
        if self._row >= 0:
            assert isinstance(self._measured, Sequence)
            self._measured, self._row = self._measured[self._row], -1
        return cast("Measurement | None", self._measured)


@dataclass(frozen=True, slots=True)
class Sent:
    """A contribution: the edge it took and what it was."""

    number: int
    edge: Edge
    tensor: Tensor


class Lazily(Mapping[int, V]):
    """What there is at each node of a large call, put together when it is asked for."""

    def __init__(self, make: Callable[[int], V], count: int) -> None:
        self._make = make
        self._count = count
        self._known: dict[int, V] = {}

    def __getitem__(self, node: int) -> V:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self._make(node)
        return found

    @overload
    def get(self, node: int, /) -> V | None: ...
    @overload
    def get(self, node: int, default: D, /) -> V | D: ...
    def get(self, node: int, default: D | None = None, /) -> V | D | None:
        return self[node] or default

    def __iter__(self) -> Iterator[int]:
        return (node for node in range(self._count) if self[node])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class CallFacts:
    """The structure, receipts and contributions of one call, by node.

    Of a large one, `wiring` has them as numbers, for what looks at all nodes.
    """

    received: Mapping[int, dict[int, Tensor]]
    leaving: Mapping[int, list[Sent]]
    arriving: Mapping[int, list[Sent]]

    def __init__(self, trace: Trace, call: Call) -> None:
        self.trace = trace
        self.call = call
        self.layout: Layout = trace.layout(call.layout)
        number = self.layout.structure
        self.structure = Structure(-1, (), ()) if number is None else trace.structure(number)
        self.measured = trace.measured(call)
        self.scalars = trace.scalars(call)
        self._effects: dict[int, tuple[Effect, ...]] = {}
        self._alike: dict[Hashable, tuple[Effect, ...]] = {}
        """The effects of nodes by all that a rule looks at: in a large graph few differ."""
        self._tensors: dict[tuple[int, int | None], Tensor] = {}
        self.wiring = wiring_of(self.structure, self.layout)
        if self.wiring is None:
            self._sort()
        else:
            self._sort_lazily(self.wiring)
        self.readings = {(r.buffer, r.moment): r for r in self.layout.readings}

    def _sort(self) -> None:
        received: dict[int, dict[int, Tensor]] = defaultdict(dict)
        for receipt in self.layout.receipts:
            received[receipt.node][receipt.input] = self.tensor(receipt.form, receipt.row)
        leaving: dict[int, list[Sent]] = defaultdict(list)
        arriving: dict[int, list[Sent]] = defaultdict(list)
        edges = self.structure.edges
        for contribution in self.layout.contributions:
            edge = edges[contribution.edge]
            sent = Sent(contribution.edge, edge, self.tensor(contribution.form, contribution.row))
            leaving[edge.sender].append(sent)
            arriving[edge.receiver].append(sent)
        self.received, self.leaving, self.arriving = received, leaving, arriving

    def _sort_lazily(self, wiring: Wiring) -> None:
        def sent(place: int) -> Sent:
            number, row = wiring.number[place], wiring.row[place]
            tensor = self.tensor(wiring.form[place], None if row < 0 else row)
            return Sent(number, self.structure.edges[number], tensor)

        def received(node: int) -> dict[int, Tensor]:
            receipts = (self.layout.receipts[place] for place in wiring.received[node])
            return {receipt.input: self.tensor(receipt.form, receipt.row) for receipt in receipts}

        self.received = Lazily(received, wiring.count)
        self.leaving = Lazily(lambda node: [*map(sent, wiring.leaving[node])], wiring.count)
        self.arriving = Lazily(lambda node: [*map(sent, wiring.arriving[node])], wiring.count)

    def tensor(self, form: int, row: int | None) -> Tensor:
        """What lies in a row: the very same where what was sent is what was received."""
        found = self._tensors.get((form, row))
        if found is None:
            known = self.trace.forms[form]
            found = Tensor(known, None) if row is None else Tensor(known, self.measured, row)
            self._tensors[form, row] = found
        return found

    def node(self, index: int) -> Node:
        return self.structure.nodes[index]

    @cached_property
    def writers(self) -> dict[int, int]:
        """The node that writes each buffer."""
        return {buffer: node for node, buffer in leaves_of(self.structure.nodes).items()}

    @cached_property
    def ranks_at(self) -> dict[int, int]:
        """How many ranks exchanged something at a node: a collective of the forward's adjoint."""
        return {
            exchange.node: len(self.trace.groups[exchange.group].ranks)
            for exchange in self.trace.exchanges
            if exchange.call == self.call.order and exchange.node is not None
        }

    @cached_property
    def outgoing(self) -> Mapping[int, list[Edge]]:
        """Every edge of a node, with a contribution or without."""
        wiring = self.wiring
        if wiring is not None:
            every = self.structure.edges
            return Lazily(lambda node: [every[n] for n in wiring.outgoing[node]], wiring.count)
        found: dict[int, list[Edge]] = defaultdict(list)
        for edge in self.structure.edges:
            found[edge.sender].append(edge)
        return found

    def leads(self, node: int, ends: Collection[int]) -> bool:
        """Whether one of these nodes is this one or lies below it."""
        stack, seen = [node], {node}
        while stack:
            current = stack.pop()
            if current in ends:
                return True
            for edge in self.outgoing.get(current, ()):
                if edge.receiver not in seen:
                    seen.add(edge.receiver)
                    stack.append(edge.receiver)
        return False

    def state(self, node: int) -> NodeState:
        found = self._state(node)
        return NodeState(node, ran=False) if found is None else found

    @cached_property
    def _state(self) -> Callable[[int], NodeState | None]:
        return states_of(self.layout.states)

    def saved(self, node: int) -> dict[str, Any]:
        state = self.state(node)
        return {**state.saved, **dict(zip(state.numbers, self._numbers(state), strict=False))}

    def effect(self, sent: Sent) -> Effect:
        """What the sender did to what it received, on the way to this edge."""
        sender = sent.edge.sender
        effects = self._effects.get(sender)
        if effects is None:
            effects = self._effects[sender] = self._effects_of(sender)
        return effects[sent.edge.output]

    def senders(self, node: int) -> list[int]:
        """Who sent something to a node, once for each contribution."""
        if self.wiring is None:
            return [sent.edge.sender for sent in self.arriving.get(node, ())]
        return [self.wiring.sender[place] for place in self.wiring.arriving[node]]

    @cached_property
    def deeds(self) -> Column:
        """A number for each node of a large call: those with the same one do the same."""
        assert self.wiring is not None
        return self.wiring.deeds(self.scalars)

    def sent(self, numbers: Collection[int]) -> dict[int, Sent]:
        """What was sent along these edges."""
        if self.wiring is not None:
            senders = {self.structure.edges[number].sender for number in numbers}
            found = (sent for node in senders for sent in self.leaving[node])
        else:
            found = (sent for sents in self.leaving.values() for sent in sents)
        return {sent.number: sent for sent in found if sent.number in numbers}

    def _effects_of(self, index: int) -> tuple[Effect, ...]:
        node, state = self.structure.nodes[index], self._state(index)
        received = self.received.get(index, {})
        key = (
            node.name,
            node.custom,
            tuple((place, tensor.form.shape) for place, tensor in received.items()),
            tuple((sent.edge.output, sent.tensor.form.shape) for sent in self.leaving[index]),
            # The layout holds the dict: no other can have its identity meanwhile.
            None if state is None else id(state.saved),
            None if state is None else (state.numbers, self._numbers(state)),
        )
        found = self._alike.get(key)
        if found is None:
            found = self._alike[key] = effects_of(self._node_facts(index))
        return found

    def _numbers(self, state: NodeState) -> tuple[float, ...]:
        return self.scalars[state.first : state.first + len(state.numbers)]

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
        if self.wiring is not None:
            return self.wiring.order([root.node for root in self.layout.roots])
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
        if len(parts) == 1 and parts[0] is received:
            return None if received.measured.nonfinite else ONE
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
