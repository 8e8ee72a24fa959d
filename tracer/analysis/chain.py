"""What all of a buffer's gradient passes: the nodes on every path from the roots to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from tracer.analysis.callfacts import CallFacts, Sent
from tracer.analysis.shares import Share, shares_of_parts
from tracer.graph.wiring import Wiring
from tracer.semantics.effects import Exact, Nothing

__all__ = ["Link", "Links", "chain_of", "dominators"]

START = -1


@dataclass(frozen=True)
class Link:
    """One node that the whole gradient passes.

    `norm` is that of what it received. `effect` says what it did on the way to the next link, where
    one edge leads there, `factor` by how much; `branches` is how many edges left it for the buffer.
    `fan_in` is how many contributions met at one input, `shares` is how much of it each was.
    """

    node: int
    name: str
    called: str
    source: int | None
    module: int | None
    norm: float | None
    effect: str = ""
    kind: str = ""
    factor: Exact | None = None
    fan_in: int = 1
    branches: int = 1
    hooks: int = 0
    shares: tuple[Share, ...] = ()

    @property
    def is_told(self) -> bool:
        """Whether there is something to say of it: not of a node that only hands on."""
        is_quiet = self.kind in ("moves", "")
        return not is_quiet or self.branches > 1 or self.fan_in > 1 or bool(self.hooks)


class Links(Sequence[Link]):
    """The links of a chain, outermost first; of a long one each is made when it is looked at."""

    def __init__(self, facts: CallFacts, nodes: Sequence[int], above: Set[int]) -> None:
        self._facts = facts
        self._nodes = nodes
        self._above = above

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, place: int) -> Link: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Link, ...]: ...
    def __getitem__(self, place: int | slice) -> Link | tuple[Link, ...]:
        if isinstance(place, slice):
            return tuple(map(self._made, self._nodes[place]))
        return self._made(self._nodes[place])

    def __iter__(self) -> Iterator[Link]:
        return map(self._made, self._nodes)

    def _made(self, node: int) -> Link:
        return _link(self._facts, node, self._above)

    @cached_property
    def told(self) -> list[int]:
        """The places of the links of which there is something to say, and of the last."""
        last = len(self) - 1
        return [p for p, node in enumerate(self._nodes) if p == last or self._is_told(node)]

    def _is_told(self, node: int) -> bool:
        wiring = self._facts.wiring
        if wiring is None or node in self._facts.roots_at or not _has_one_way(wiring, node):
            return self._made(node).is_told
        deed = self._facts.deeds[node]
        if deed not in self._known:
            self._known[deed] = self._made(node).is_told
        return self._known[deed]

    @cached_property
    def _known(self) -> dict[int, bool]:
        """Of nodes with one sender and one receiver: those that do the same say the same."""
        return {}


def _has_one_way(wiring: Wiring, node: int) -> bool:
    return len(wiring.arriving[node]) == 1 == len(wiring.leaving[node])


def dominators(facts: CallFacts) -> dict[int, int]:
    """The nearest node that every path from the roots to a node passes; START above the roots.

    The graph has no cycles, so one pass in the order of the flow is enough: the dominator is where
    the paths of all senders last had a node in common.
    """
    nearest: dict[int, int] = {}
    depth: dict[int, int] = {START: 0}
    for node in facts.order:
        senders = facts.senders(node)
        if node in facts.roots_at:
            senders.append(START)
        common = senders[0]
        for sender in senders[1:]:
            common = _meeting(common, sender, nearest, depth)
        nearest[node] = common
        depth[node] = depth[common] + 1
    return nearest


def _meeting(a: int, b: int, nearest: dict[int, int], depth: dict[int, int]) -> int:
    while a != b:
        if depth[a] < depth[b]:
            a, b = b, a
        a = nearest[a]
    return a


def chain_of(facts: CallFacts, node: int) -> Links:
    """The links from the roots to a node, outermost first."""
    nearest = dominators(facts)
    if node not in nearest:
        return Links(facts, (), set())
    path = [node]
    while nearest[path[-1]] != START:
        path.append(nearest[path[-1]])
    return Links(facts, path[::-1], _above(facts, node))


def _above(facts: CallFacts, node: int) -> set[int]:
    """The nodes from which a gradient reaches this one."""
    seen, stack = {node}, [node]
    while stack:
        for sender in facts.senders(stack.pop()):
            if sender not in seen:
                seen.add(sender)
                stack.append(sender)
    return seen


def _link(facts: CallFacts, index: int, above: Set[int]) -> Link:
    node = facts.node(index)
    leaving = [
        sent
        for sent in facts.leaving.get(index, ())
        if sent.edge.receiver in above and not isinstance(facts.effect(sent), Nothing)
    ]
    effect = facts.effect(leaving[0]) if leaving and _alike(facts, leaving) else None
    places = [sent.edge.input for sent in facts.arriving.get(index, ())]
    places += [facts.layout.roots[position].input for position in facts.roots_at.get(index, ())]
    arriving = len(places) if len(places) < 2 else max(Counter(places).values())
    return Link(
        index, node.name, node.called or node.custom.rpartition(".")[2], node.source, node.module,
        _norm(facts, index), effect.words if effect else "", effect.kind if effect else "",
        effect.factor if effect else None, arriving, len(leaving),
        sum(facts.state(index).hooks), tuple(_shares(facts, index)) if arriving > 1 else (),
    )  # fmt: skip


def _shares(facts: CallFacts, index: int) -> list[Share]:
    """Of the contributions to the one input that received any, if nothing changed their sum."""
    received = facts.received.get(index, {})
    if len(received) != 1:
        return []
    ((place, whole),) = received.items()
    if facts.changed(index, place) != 1:
        return []
    return shares_of_parts([part.measured for part in facts.arrivals(index, place)], whole.measured)


def _alike(facts: CallFacts, leaving: list[Sent]) -> bool:
    return len({facts.effect(sent) for sent in leaving}) == 1


def _norm(facts: CallFacts, node: int) -> float | None:
    known = [t.measured.norm for t in facts.received.get(node, {}).values() if t.measured]
    return sum(norm * norm for norm in known) ** 0.5 if known else None
