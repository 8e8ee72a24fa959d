"""What checks ask of every layout of a run, read in one go: a long run has many big ones."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.analysis.callfacts import CallFacts
from tracer.events import Layout, Node
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
    leaves = {node.index: node.buffer for node in nodes if node.buffer is not None}
    return Traits(
        contributions=len(layout.contributions),
        leaves=frozenset(leaves.values()),
        received=frozenset(leaves[r.node] for r in layout.receipts if r.node in leaves),
        hooked=_hooked(layout, leaves),
        read=read,
        divisors=tuple(_divisors(trace, layout, nodes)),
    )


def _hooked(layout: Layout, leaves: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """The leaves with hooks, and how many."""
    counts = ((s.node, s.hooks[0] + s.hooks[2]) for s in layout.states if s.ran)
    return tuple((leaves[node], count) for node, count in counts if count and node in leaves)


def _divisors(trace: Trace, layout: Layout, nodes: tuple[Node, ...]) -> list[Divisor]:
    found: list[Divisor] = []
    for state in layout.states:
        name, saved = nodes[state.node].name, state.saved
        if not state.ran:
            continue
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
    edges = trace.structure(layout.structure).edges
    own = (c for c in layout.contributions if edges[c.edge].sender == node)
    return any(trace.forms[contribution.form].elements == 0 for contribution in own)


def depths(facts: CallFacts) -> dict[int, int]:
    """The longest way from a root to each node."""
    found: dict[int, int] = {}
    for node in facts.order:
        here = found.setdefault(node, 0)
        for sent in facts.leaving.get(node, ()):
            receiver = sent.edge.receiver
            found[receiver] = max(found.get(receiver, 0), here + 1)
    return found
