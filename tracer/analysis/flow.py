"""Which items reach which buffers in a call, and what multiplied their gradients on the way.

Between the items and a buffer lies the network, whose derivatives are its own business. What counts
here is what somebody did to the gradient beside them: a hook that scales, a function of the user's
that reverses. Each node holds, per site, what all of the site's gradient passed so far.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tracer.analysis.callfacts import CallFacts, Sent
from tracer.analysis.exact import is_rough, is_same, is_zero, proportion, rounding
from tracer.analysis.network import Network
from tracer.analysis.strand import Ended, Factor, Strand
from tracer.analysis.strands import OPAQUE, follow
from tracer.graph.wiring import Wiring
from tracer.semantics.effects import Effect, Moves, Opaque, Scales

__all__ = ["CallFlow", "Flow", "Passed", "SiteId", "flow_of"]

SiteId = tuple[int, int]
"""The order of the call that a site lies in, and its number there."""

MOST_CHECKED = 30_000
"""Nodes of a graph up to which every fan-in is compared; beyond, only those with hooks."""


@dataclass(frozen=True)
class Passed:
    """What all of one site's gradient passed on the way to a place.

    `mixed` says why there is no such thing: parts of it went different ways.
    """

    factors: tuple[Factor, ...] = ()
    mixed: str = ""


Flow = Mapping[SiteId, Passed]


@dataclass
class CallFlow:
    """The sites of a call, and per buffer what reached it; nested calls carry on their outer's."""

    facts: CallFacts
    sites: dict[SiteId, Ended]
    buffers: dict[int, Flow] = field(default_factory=dict)
    at_node: dict[int, Flow] = field(default_factory=dict)
    """At opaque nodes, inside which another backward call may have run."""


def flow_of(facts: CallFacts, network: Network, outer: CallFlow | None = None) -> CallFlow:
    """Follow the gradients of a call; `outer` is the flow of the call that it ran inside of."""
    inherited = _inherited(facts, outer) if outer else {}
    if outer and len(inherited) < len(facts.layout.roots):
        outer = None
    strands: dict[int, list[Strand]] = {}
    if outer:
        strands = {p: _entering(outer, node) for p, node in inherited.items()}
    is_inside_loss = any(strands.values())
    if outer and not is_inside_loss:
        walk = _FlowWalk(CallFlow(facts, dict(outer.sites)))
        for position, node in inherited.items():
            walk.enter(facts.layout.roots[position].node, outer.at_node.get(node, {}))
        return walk.walk()
    ended = follow(facts, network, strands)
    order = facts.call.order
    walk = _FlowWalk(CallFlow(facts, {(order, n): one for n, one in enumerate(ended)}))
    walk.begin()
    return walk.walk()


def _inherited(facts: CallFacts, outer: CallFlow) -> dict[int, int]:
    """For each root of a nested call the opaque node of the outer one that handed it over."""
    found: dict[int, int] = {}
    for position, root in enumerate(facts.layout.roots):
        start = facts.tensor(root.form, root.gradient)
        for node in outer.facts.order:
            if not outer.facts.node(node).custom or start.measured is None:
                continue
            for received in outer.facts.received.get(node, {}).values():
                known = received.measured
                if known is not None and proportion([known], start.measured) == 1:
                    found[position] = node
    return found


def _entering(outer: CallFlow, node: int) -> list[Strand]:
    """The strands that had not come to their items when they met the opaque node."""
    return [
        replace(one.strand, unknown="")
        for one in outer.sites.values()
        if one.node == node and one.strand.unknown.startswith(OPAQUE)
    ]


class _FlowWalk:
    """Hands what passed from node to node, senders before receivers."""

    def __init__(self, call: CallFlow) -> None:
        self._call = call
        self._facts = call.facts
        self._arrived: dict[int, dict[int, list[Flow]]] = {}
        self._checks_all = len(call.facts.structure.nodes) <= MOST_CHECKED
        wiring = call.facts.wiring
        self._wide = None if wiring is None or self._checks_all else _Wide(call.facts, wiring)

    def begin(self) -> None:
        """Put each site in front of the nodes below it."""
        wanted = {number for ended in self._call.sites.values() for number in ended.edges}
        edges = self._facts.sent(wanted)
        for site, ended in self._call.sites.items():
            for number in ended.edges:
                sent = edges[number]
                passed = self._along(sent, {site: Passed()})
                self._arrive(sent.edge.receiver, sent.edge.input, passed)
            buffer = self._facts.node(ended.node).buffer
            if not ended.edges and buffer is not None:
                known = dict(self._call.buffers.get(buffer, {}))
                self._call.buffers[buffer] = {**known, site: Passed()}

    def enter(self, node: int, flow: Flow) -> None:
        self._arrive(node, -1, flow)

    def walk(self) -> CallFlow:
        if self._wide is not None:
            for node, met in self._wide.walk():
                self._visit(node, met)
            return self._call
        for node in self._facts.order:
            inputs = self._arrived.pop(node, None)
            if inputs:
                self._visit(node, inputs)
        return self._call

    def _arrive(self, node: int, place: int, flow: Flow) -> None:
        if self._wide is not None:
            self._wide.arrive(node, place, flow)
        else:
            self._arrived.setdefault(node, {}).setdefault(place, []).append(flow)

    def _visit(self, node: int, inputs: dict[int, list[Flow]]) -> None:
        flows = [self._received(node, place, _merged(flows)) for place, flows in inputs.items()]
        flow = _merged(flows)
        found = self._facts.node(node)
        if found.buffer is not None:
            known = self._call.buffers.get(found.buffer)
            self._call.buffers[found.buffer] = _merged([known, flow]) if known else flow
        if found.custom:
            self._call.at_node[node] = flow
        for sent in self._facts.leaving.get(node, ()):
            self._arrive(sent.edge.receiver, sent.edge.input, self._along(sent, flow))

    def _received(self, node: int, place: int, flow: Flow) -> Flow:
        hooks = self._facts.state(node).hooks[0]
        if not (hooks or self._checks_all) or place < 0:
            return flow
        received = self._facts.received.get(node, {}).get(place)
        if received is None or received.measured is None or received.measured.nonfinite:
            return flow
        changed = self._facts.changed(node, place)
        words = f"{hooks} hook{'s' if hooks > 1 else ''}" if hooks else "changed on the way"
        if hooks and is_zero(received.measured) and not self._is_idle(node):
            changed, words = None, f"{words} on a gradient of zero, whose factor does not show"
        if changed == 1:
            return flow
        source = self._source(node)
        rough = is_rough(changed, received.form.dtype)
        return _times(flow, Factor("hook", changed, words, source, True, rough))

    def _is_idle(self, node: int) -> bool:
        """Whether what is registered at the same line changes no other gradient, not being zero."""
        lines = self._facts.state(node).saved.get("hooked_at")
        factors = [
            self._facts.changed(state.node, 0)
            for state in self._facts.layout.states
            if lines and state.saved.get("hooked_at") == lines and self._has_size(state.node)
        ]
        return bool(factors) and all(factor == 1 for factor in factors)

    def _has_size(self, node: int) -> bool:
        received = self._facts.received.get(node, {}).get(0)
        return (
            received is not None
            and received.measured is not None
            and not is_zero(received.measured)
        )

    def _source(self, node: int) -> int | None:
        """The line that made a node; of a leaf, which no line made, that of its last hook."""
        source = self._facts.node(node).source
        lines = self._facts.state(node).saved.get("hooked_at") if source is None else None
        return int(lines[-1]) if lines else source

    def _along(self, sent: Sent, flow: Flow) -> Flow:
        """The flow behind a node that may have done something beside its derivative."""
        effect, node = self._facts.effect(sent), self._facts.node(sent.edge.sender)
        hooks = self._facts.state(node.index).hooks[1]
        if isinstance(effect, Opaque):
            factor = self._measured(sent, effect)
            if factor is not None and factor.value != 1:
                return _times(flow, factor)
            return flow
        if hooks:
            factor = self._measured(sent, effect)
            if factor is None:
                factor = Factor("hook", None, f"a hook after {node.name}", node.source)
            return flow if factor.value == 1 else _times(flow, factor)
        return flow

    def _measured(self, sent: Sent, effect: Effect) -> Factor | None:
        """By what a node multiplied, beyond its rule, if it is one number."""
        node = self._facts.node(sent.edge.sender)
        received = list(self._facts.received.get(node.index, {}).values())
        leaving = sent.tensor
        if len(received) != 1 or received[0].elements != leaving.elements:
            return None
        if received[0].measured is None or leaving.measured is None:
            return None
        if not isinstance(effect, Opaque | Moves | Scales):
            return None
        is_own = bool(node.custom) and not node.custom.startswith("torch.")
        if leaving.elements < 2 and not is_own:
            return None
        tolerance = max(rounding(received[0].form.dtype), rounding(leaving.form.dtype))
        value = proportion([received[0].measured], leaving.measured, tolerance)
        if value is None:
            return None
        name = node.custom.rpartition(".")[2] or node.name
        if isinstance(effect, Opaque):
            # Of one element any derivative is a multiple: told, but not counted.
            kind = "function" if is_own and leaving.elements > 1 else "opaque"
            rough = is_rough(value, received[0].form.dtype, leaving.form.dtype)
            return Factor(kind, value, name, node.source, True, rough)
        if isinstance(effect, Scales):
            value = value / effect.by
        return Factor("hook", Fraction(1) if is_same(value, Fraction(1)) else value,
                      f"a hook after {name}", node.source, True)  # fmt: skip


class _Wide:
    """The way through a large call: most nodes hand on the very flow that came.

    Those that may do more to it, or that different ones came to, are handed out to be visited.
    """

    def __init__(self, facts: CallFacts, wiring: Wiring) -> None:
        self._facts = facts
        self._wiring = wiring
        self._came: list[Flow | None] = [None] * wiring.count
        """What came to each node, if the same each time."""
        self._input = array("q", [0]) * wiring.count
        """At which input it came first."""
        self._met: dict[int, dict[int, list[Flow]]] = {}
        """What came to the others, by input."""
        self._plain: dict[int, bool] = {}

    def arrive(self, node: int, place: int, flow: Flow) -> None:
        known = self._came[node]
        if known is flow:
            return
        if known is not None:
            self._came[node] = None
            self._met[node] = {self._input[node]: [known]}
        elif node not in self._met:
            if self._is_plain(node):
                self._came[node], self._input[node] = flow, place
                return
            self._met[node] = {}
        self._met[node].setdefault(place, []).append(flow)

    def walk(self) -> Iterator[tuple[int, dict[int, list[Flow]]]]:
        wiring, came, met = self._wiring, self._came, self._met
        plain, deeds, first = self._plain, self._facts.deeds, self._input
        leaves = wiring.nodes.buffers
        starts = wiring.leaving.starts
        receivers = wiring.leaving.taken(wiring.receiver)
        inputs = wiring.leaving.taken(wiring.input)
        for node in self._facts.order:
            flow = came[node]
            if flow is not None:
                for place in range(starts[node], starts[node + 1]):
                    receiver = receivers[place]
                    known = came[receiver]
                    is_plain = plain.get(deeds[receiver]) and receiver not in leaves
                    if known is None and is_plain and receiver not in met:
                        came[receiver], first[receiver] = flow, inputs[place]
                    elif known is not flow:
                        self.arrive(receiver, inputs[place], flow)
            elif node in met:
                yield node, met.pop(node)

    def _is_plain(self, node: int) -> bool:
        """Whether a node hands on what came to it; asked once of those that do the same."""
        deed = self._facts.deeds[node]
        if deed not in self._plain:
            self._plain[deed] = self._hands_on(node)
        return self._plain[deed] and node not in self._wiring.nodes.buffers

    def _hands_on(self, node: int) -> bool:
        hooks = self._facts.state(node).hooks
        effects = [self._facts.effect(sent) for sent in self._facts.leaving.get(node, ())]
        is_opaque = any(isinstance(effect, Opaque) for effect in effects)
        return not (hooks[0] or hooks[1] or self._facts.node(node).custom or is_opaque)


def _times(flow: Flow, factor: Factor) -> Flow:
    return {
        site: replace(passed, factors=(*passed.factors, factor)) for site, passed in flow.items()
    }


def _merged(flows: list[Flow]) -> Flow:
    """What the gradients that meet have in common."""
    first = flows[0]
    if all(flow is first for flow in flows):
        return first
    found: dict[SiteId, Passed] = {}
    for flow in flows:
        for site, passed in flow.items():
            known = found.get(site)
            found[site] = passed if known is None else _either(known, passed)
    return found


def _either(a: Passed, b: Passed) -> Passed:
    if a == b:
        return a
    other = set(a.factors) ^ set(b.factors)
    why = ", ".join(sorted({factor.words for factor in other}))
    shared = tuple(factor for factor in a.factors if factor in b.factors)
    return Passed(shared, a.mixed or b.mixed or f"{why} changed a part of the gradient")
