"""Walk one graph, hook each node, take each contribution, unhook."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from tracer.record.arenas import ARENA_ELEMENTS
from tracer.record.hookcalls import HookCalls
from tracer.record.journal import Journal
from tracer.record.measure import BlindShelf, Shelf, identity, is_small
from tracer.record.nodes import NodeKind, Saved, hooks_before, kind_of, saved_of
from tracer.record.sources import Origin, origin_in

__all__ = ["Graph", "Taken", "Watch"]

Identity = tuple[object, ...]
Gradients = tuple[torch.Tensor | None, ...]

NO_HOOKS = (0, 0, 0)

PERMUTING = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})
"""Pass on the very memory that they received, in another order."""


class Graph:
    """The graph reached from some nodes, walked without recursion: graphs are 10^6 nodes deep.

    Its columns have one item for each node, in the order of the walk. Edges are numbered sender by
    sender, by output.
    """

    def __init__(self, roots: Iterable[tuple[Any, int]]) -> None:
        self.nodes: list[Any] = []
        self.kinds: list[NodeKind] = []
        self.origins: list[Origin] = []
        self.saved: list[Saved] = []
        self.hooks: list[tuple[int, int, int]] = []
        self.index: dict[Any, int] = {}
        self.edges = array("q")
        """Four numbers each: sender, output, receiver, input."""
        self.first = array("q")
        """Where in `edge_of` the outputs of a node begin."""
        self.edge_of = array("q")
        """For each output its edge, -1 where there is none."""
        self._roots: list[tuple[int, int]] = []
        self._met: set[tuple[int, int] | int] = set()
        self._shared: set[tuple[int, int] | int] = set()
        self._walk(roots)
        self.ran = bytearray(len(self.nodes))
        self.runs_python = any(
            kind.custom or (origin.lazy and not kind.accumulates)
            for kind, origin in zip(self.kinds, self.origins, strict=True)
        )
        """Whether code of the user may run while the engine does."""
        self.is_alone = self._alone()

    def __len__(self) -> int:
        return len(self.nodes)

    def edge(self, number: int) -> tuple[int, int, int, int]:
        """Sender, output, receiver, input."""
        return tuple(self.edges[4 * number : 4 * number + 4])  # type: ignore[return-value]

    def all_edges(self) -> Iterator[tuple[int, int, int, int]]:
        numbers = iter(self.edges)
        return zip(numbers, numbers, numbers, numbers, strict=True)

    def receivers(self, node: int) -> Iterator[int]:
        """The nodes that a node sends to."""
        end = self.first[node + 1] if node + 1 < len(self.first) else len(self.edge_of)
        return (self.edges[4 * e + 2] for e in self.edge_of[self.first[node] : end] if e >= 0)

    def outputs(self, node: int) -> Iterator[tuple[int, int, int]]:
        """Of each output that goes somewhere its number, the receiver and the input there."""
        end = self.first[node + 1] if node + 1 < len(self.first) else len(self.edge_of)
        for edge in self.edge_of[self.first[node] : end]:
            if edge >= 0:
                _, output, receiver, place = self.edge(edge)
                yield output, receiver, place

    def times_fed(self) -> Counter[tuple[int, int]]:
        """How many contributions and gradients of roots each input of a node gets."""
        fed = Counter(self._roots)
        fed.update((receiver, place) for _, _, receiver, place in self.all_edges())
        return fed

    def _walk(self, roots: Iterable[tuple[Any, int]]) -> None:
        for node, place in roots:
            self._roots.append((self._reach(node), place))
            self._feed(*self._roots[-1])
        edges, edge_of, first = self.edges, self.edge_of, self.first
        find, met, feed = self.index.get, self._met, self._feed
        count = 0
        for number, node in enumerate(self.nodes):  # which grows meanwhile
            first.append(len(edge_of))
            for output, (below, place) in enumerate(node.next_functions):
                if below is None:
                    edge_of.append(-1)
                    continue
                receiver = find(below)
                if receiver is None:
                    receiver = self._reach(below)
                if place or receiver in met:
                    feed(receiver, place)
                else:
                    met.add(receiver)
                edge_of.append(count)
                edges.extend((number, output, receiver, place))
                count += 1

    def _reach(self, node: Any) -> int:
        number = self.index.get(node)
        if number is None:
            number = self.index[node] = len(self.nodes)
            metadata = node.metadata
            kind, origin = kind_of(node), origin_in(metadata)
            # A node that double backward made holds on to the node it came from: no need.
            metadata.pop("parent_", None)
            self.nodes.append(node)
            self.kinds.append(kind)
            self.origins.append(origin)
            self.saved.append(saved_of(node, kind, origin.lazy))
            self.hooks.append(NO_HOOKS)
        return number

    def _feed(self, receiver: int, place: int) -> None:
        key = (receiver, place) if place else receiver
        if key in self._met:
            self._shared.add(key)
        else:
            self._met.add(key)

    def _alone(self) -> bytearray:
        """For each edge whether nothing else, not even a root's gradient, meets its end."""
        self._met.clear()
        if not self._shared:
            return bytearray(b"\1" * (len(self.edges) // 4))
        shared = self._shared
        return bytearray(
            ((receiver, place) if place else receiver) not in shared
            for _, _, receiver, place in self.all_edges()
        )


class Taken:
    """What was taken during one backward call, as numbers for `Layout`; row -1: not measured."""

    def __init__(self) -> None:
        self.contributions = array("q")
        """Three numbers each: edge, form, row."""
        self.receipts = array("q")
        """Four numbers each: node, input, form, row."""


class Watch:
    """Hooks on every node of a graph, for the time of one backward call.

    A node's post-hook sees what it received and what it sends, after the user's own hooks. What a
    leaf receives is taken before the node runs, as the buffer may take over the very tensor; so is
    what a Python function receives, as it may change it in place.
    """

    def __init__(
        self,
        graph: Graph,
        shelf: Shelf,
        journal: Journal,
        hooks: HookCalls,
        on_first: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.taken = Taken()
        self._graph = graph
        self._shelf = shelf if journal.detail == "edges" else BlindShelf()
        self._is_blind = journal.detail != "edges"
        self._form = journal.form
        self._user_hooks = hooks
        self._first: Callable[[], None] | None = on_first
        self._on_error = on_error
        self._hooked: list[dict[int, Any]] = []
        self._ids: list[int] = []
        # The one contribution to an input, where it is alone, by node and input: the tensor's id
        # (not the tensor: nothing is kept), its version, its identity, its row, its form.
        self._alone: dict[tuple[int, int], tuple[int, int, Identity, int, int]] = {}
        self._arrived: dict[int, tuple[Identity, int]] = {}

    def hook(self) -> None:
        graph, after = self._graph, self._after
        for number, (node, kind) in enumerate(zip(graph.nodes, graph.kinds, strict=True)):
            if kind.accumulates:
                before = self._place(node.register_prehook(partial(self._before, number)))
                on_buffer = len(getattr(node.variable, "_post_accumulate_grad_hooks", None) or ())
                hooks = (hooks_before(node, before), 0, on_buffer)
            else:
                before = 0
                if kind.custom:
                    before = self._place(node.register_prehook(partial(self._before, number)))
                behind = self._place(node.register_hook(partial(after, number)))
                hooks = (hooks_before(node, before), behind, 0)
            if hooks != NO_HOOKS:
                graph.hooks[number] = hooks
                graph.runs_python = True
            if hooks[0] or hooks[2]:
                lines = self._user_hooks.lines_of(node)
                if lines:
                    graph.saved[number] = graph.saved[number].having("hooked_at", lines)

    def _place(self, handle: Any) -> int:
        """Remember a hook of ours; how many others are there."""
        hooks = handle.hooks_dict_ref()
        self._hooked.append(hooks)
        self._ids.append(handle.id)
        return len(hooks) - 1

    def unhook(self) -> None:
        for hooks, number in zip(self._hooked, self._ids, strict=True):
            hooks.pop(number, None)
        self._hooked, self._ids = [], []
        self._alone.clear()

    def _before(self, number: int, received: Gradients) -> None:
        """The pre-hook of a leaf or a Python function."""
        try:
            self._start(number)
            if self._is_blind:
                self._note(number, (), received)
                return
            rows = self._receive(number, received)
            if self._graph.kinds[number].accumulates:
                self._arrived[number] = next(iter(rows.items()), ((), -1))
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._on_error(error)

    def _after(self, number: int, sent: Gradients, received: Gradients) -> None:
        """The post-hook of every other node, and of a Python function."""
        try:
            self._start(number)
            if self._is_blind:
                self._note(number, sent, received)
                return
            rows: dict[Identity, int] = {}
            if not self._graph.kinds[number].custom:
                rows = self._receive(number, received)
            self._send(number, sent, rows)
        except Exception as error:  # noqa: BLE001
            self._on_error(error)

    def _note(self, number: int, sent: Gradients, received: Gradients) -> None:
        """Only the shapes."""
        graph, taken, form = self._graph, self.taken, self._form
        if not (sent and graph.kinds[number].custom):
            for place, gradient in enumerate(received):
                if gradient is not None:
                    taken.receipts.extend((number, place, form(gradient), -1))
        start = graph.first[number]
        for output, gradient in enumerate(sent):
            if gradient is not None:
                edge = graph.edge_of[start + output]
                if edge >= 0:
                    taken.contributions.extend((edge, form(gradient), -1))

    def _start(self, number: int) -> None:
        if self._first is not None:
            first, self._first = self._first, None
            first()
        self._graph.ran[number] = 1

    def took_over(self, number: int, content: torch.Tensor) -> int | None:
        """The row of what a leaf received, if that very tensor is its buffer now, unchanged.

        Told by address and version, as long as nothing that could write past these has run.
        """
        same, row = self.arrived(number)
        if row < 0 or not same or self._graph.runs_python or identity(content) != same:
            return None
        return None if _is_distributed() else row

    def arrived(self, number: int) -> tuple[Identity, int]:
        """What a leaf received, and its row."""
        return self._arrived.get(number, ((), -1))

    def _receive(self, number: int, received: Gradients) -> dict[Identity, int]:
        """Take what a node received; the rows by tensor, for what it passes on as it is."""
        rows: dict[Identity, int] = {}
        graph = self._graph
        for place, gradient in enumerate(received):
            if gradient is None:
                continue
            alone = self._alone.pop((number, place), None)
            if alone is not None and not graph.hooks[number][0]:
                address, version, same, row, form = alone
                if (
                    identity(gradient) == same
                    if type(gradient) is not torch.Tensor
                    else (
                        (id(gradient) == address and gradient._version == version)
                        or identity(gradient) == same
                    )
                ):
                    rows[same] = row
                    self.taken.receipts.extend((number, place, form, row))
                    continue
            self._count_prehooks(number)
            same = identity(gradient)
            row = rows.get(same, -1) if same else -1
            if row < 0:
                row = self._measure(gradient, same, kept=graph.kinds[number].accumulates)
            if same:
                rows[same] = row
            self.taken.receipts.extend((number, place, self._form(gradient), row))
        return rows

    def _measure(self, gradient: torch.Tensor, same: Identity, **how: Any) -> int:
        row = self._shelf.add(gradient, same, **how)
        return -1 if row is None else row

    def _count_prehooks(self, number: int) -> None:
        """Count the user's hooks on a node where what arrived is not the one thing that was sent.

        A node does not tell its hooks; the handle of a hook of ours does. To place one on every
        node would cost more than to ask here.
        """
        graph = self._graph
        if graph.kinds[number].accumulates or graph.kinds[number].custom:
            return  # has one of ours, counted already
        handle = graph.nodes[number].register_prehook(_ignore)
        prehooks = len(handle.hooks_dict_ref()) - 1
        handle.remove()
        graph.hooks[number] = (
            hooks_before(graph.nodes[number], prehooks), *graph.hooks[number][1:]
        )  # fmt: skip

    def _send(self, number: int, sent: Gradients, rows: dict[Identity, int]) -> None:
        graph, shelf = self._graph, self._shelf
        edges, taken = graph.edges, self.taken.contributions
        place = graph.first[number]
        for gradient in sent:
            edge = graph.edge_of[place]
            place += 1
            if gradient is None or edge < 0:
                continue
            same = identity(gradient)
            row = rows.get(same, -1) if same else -1
            if row < 0 or not shelf.has_fingerprint(row):
                receiver = graph.kinds[edges[4 * edge + 2]]
                if is_small(same):
                    row = shelf.add_small(same, kept=receiver.accumulates)
                elif gradient.numel() > ARENA_ELEMENTS:
                    row = self._measure(gradient, same, **self._how(edge, gradient, same, rows))
                else:
                    row = self._measure(gradient, same, kept=receiver.accumulates)
            form = self._form(gradient)
            if same:
                rows[same] = row
                if graph.is_alone[edge] and row >= 0:
                    self._alone[edges[4 * edge + 2], edges[4 * edge + 3]] = (
                        id(gradient), gradient._version, same, row, form,
                    )  # fmt: skip
            taken.extend((edge, form, row))

    def _how(
        self, edge: int, gradient: torch.Tensor, same: Identity, rows: dict[Identity, int]
    ) -> dict[str, Any]:
        """How to measure a large tensor: see `Shelf.add`."""
        receiver = self._graph.edges[4 * edge + 2]
        kind = self._graph.kinds[receiver]
        waits = (
            kind.name in PERMUTING
            and bool(self._graph.is_alone[edge])
            and not self._graph.hooks[receiver][0]
        )
        like = next((row for known, row in rows.items() if known[:2] == same[:2]), None)
        return {"kept": kind.accumulates, "projected": not waits, "like": like}


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _ignore(received: object) -> None:
    """A hook that does nothing, placed only to be counted."""
