"""What checks ask of every layout of a run, read in one go: a long run has many big ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracer.analysis.callfacts import CallFacts
from tracer.columns import Nodes, Receipts, States, leaves_of
from tracer.events import Layout, Node, NodeState
from tracer.tracefile import Trace

__all__ = ["Divisor", "Traits", "depths", "traits_of"]


@dataclass(frozen=True)
class Divisor:
    """A node that divides by a number; its position among the scalars, None if it surely is 0."""

    node: int
    words: str
    position: int | None


@dataclass(frozen=True)
class Traits:
    """A layout without its nodes: the leaves it has, reaches, finds hooks on; what it divides."""

    contributions: int = 0
    leaves: frozenset[int] = frozenset()
    received: frozenset[int] = frozenset()
    hooked: tuple[tuple[int, int], ...] = ()
    read: frozenset[int] = frozenset()
    divisors: tuple[Divisor, ...] = ()


def traits_of(trace: Trace, number: int) -> Traits:
    """Those of a call's layout, or of a step's, which has readings only."""
    layout = trace.layout(number)
    read = frozenset(reading.buffer for reading in layout.readings)
    if layout.structure is None:
        return Traits(read=read)
    nodes = trace.structure(layout.structure).nodes
    leaves = leaves_of(nodes)
    return Traits(
        contributions=len(layout.contributions),
        leaves=frozenset(leaves.values()),
        received=frozenset(leaves[node] for node in _receiving(layout) if node in leaves),
        hooked=_hooked(layout, leaves),
        read=read,
        divisors=tuple(_divisors(trace, layout, nodes)),
    )


def _hooked(layout: Layout, leaves: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """The leaves with hooks, and how many."""
    states = layout.states
    if isinstance(states, States):
        own = (states.of(node) for node in sorted(leaves))
        counts = [(s.node, s.hooks[0] + s.hooks[2]) for s in own if s is not None and s.ran]
    else:
        counts = [(s.node, s.hooks[0] + s.hooks[2]) for s in states if s.ran]
    return tuple((leaves[node], count) for node, count in counts if count and node in leaves)


def _receiving(layout: Layout) -> Iterable[int]:
    """The nodes that received something."""
    receipts = layout.receipts
    return receipts.node if isinstance(receipts, Receipts) else (r.node for r in receipts)


def _dividing(layout: Layout, nodes: Sequence[Node]) -> Iterator[NodeState]:
    """The states of nodes that may divide, by their name."""
    states = layout.states
    if not (isinstance(states, States) and isinstance(nodes, Nodes)):
        yield from (s for s in states if s.ran and _may_divide(nodes[s.node].name))
        return
    names = {kind for kind, (name, *_) in enumerate(nodes.kinds) if _may_divide(name)}
    if names:
        for place, node in enumerate(states.node):
            if nodes.kind[node] in names and states.kinds[states.kind[place]].ran:
                yield states[place]


def _may_divide(name: str) -> bool:
    return "Loss" in name or name.startswith(("DivBackward", "MeanBackward"))


def _divisors(trace: Trace, layout: Layout, nodes: Sequence[Node]) -> list[Divisor]:
    found: list[Divisor] = []
    for state in _dividing(layout, nodes):
        name, saved = nodes[state.node].name, state.saved
        if name.startswith("NllLoss") and saved.get("reduction") == 1:
            if "total_weight" in state.numbers:
                words = "no target counts: all are ignored, or have weight 0"
                position = state.first + state.numbers.index("total_weight")
                found.append(Divisor(state.node, words, position))
        elif name.startswith("DivBackward") and "other" in state.numbers:
            position = state.first + state.numbers.index("other")
            found.append(Divisor(state.node, "the divisor is 0", position))
        elif (name.startswith("MeanBackward") and 0 in (saved.get("self_sym_sizes") or ())) or (
            "Loss" in name
            and saved.get("reduction") == 1
            and _sends_nothing(trace, layout, state.node)
        ):
            found.append(Divisor(state.node, "a mean of no elements", None))
    return found


def _sends_nothing(trace: Trace, layout: Layout, node: int) -> bool:
    """Whether a node sends a gradient without elements."""
    assert layout.structure is not None
    empty = {form.id for form in trace.forms.values() if form.elements == 0}
    if not empty:
        return False
    edges = trace.structure(layout.structure).edges
    own = (c for c in layout.contributions if edges[c.edge].sender == node)
    return any(contribution.form in empty for contribution in own)


def depths(facts: CallFacts) -> dict[int, int]:
    """The longest way from a root to each node."""
    found: dict[int, int] = {}
    for node in facts.order:
        here = found.setdefault(node, 0)
        for sent in facts.leaving.get(node, ()):
            receiver = sent.edge.receiver
            found[receiver] = max(found.get(receiver, 0), here + 1)
    return found
