"""Walk one graph, hook each node, take each contribution, unhook."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from tracer.record.hookcalls import HookCalls
from tracer.record.journal import Journal
from tracer.record.measure import Shelf, identity
from tracer.record.nodes import NodeKind, Saved, hooks_before, kind_of, saved_of
from tracer.record.sources import Origin, origin_of

__all__ = ["Graph", "NodeSeen", "Watch"]


@dataclass
class NodeSeen:
    """A node of the walked graph, with what is known before it runs."""

    node: Any
    kind: NodeKind
    origin: Origin
    saved: Saved
    edges: tuple[tuple[int, int, int, int] | None, ...] = ()
    """Per output: number of the edge, receiver, input of the receiver, times that input is fed."""
    hooks: tuple[int, int, int] = (0, 0, 0)
    ran: bool = False


class Graph:
    """The graph reached from some nodes, walked without recursion: graphs are 10^6 nodes deep."""

    def __init__(self, roots: Iterable[tuple[Any, int]]) -> None:
        self.seen: list[NodeSeen] = []
        self.index: dict[Any, int] = {}
        self.edges: list[tuple[int, int, int, int]] = []
        self.fed: dict[tuple[int, int], int] = {}
        queue: deque[Any] = deque()
        for node, place in roots:
            self._feed(self._reach(node, queue), place)
        while queue:
            self._follow(queue.popleft(), queue)
        for sender in self.seen:
            sender.edges = tuple(edge and (*edge[:3], self.fed[edge[1:3]]) for edge in sender.edges)

    def _reach(self, node: Any, queue: deque[Any]) -> int:
        number = self.index.get(node)
        if number is None:
            number = self.index[node] = len(self.seen)
            kind, origin = kind_of(node), origin_of(node)
            # A node that double backward made holds on to the node it came from: no need.
            node.metadata.pop("parent_", None)
            self.seen.append(NodeSeen(node, kind, origin, saved_of(node, kind, origin.lazy)))
            queue.append(number)
        return number

    def _feed(self, receiver: int, place: int) -> None:
        self.fed[receiver, place] = self.fed.get((receiver, place), 0) + 1

    def _follow(self, number: int, queue: deque[Any]) -> None:
        seen = self.seen[number]
        edges: list[tuple[int, int, int, int] | None] = []
        for output, (node, place) in enumerate(seen.node.next_functions):
            if node is None:
                edges.append(None)
                continue
            receiver = self._reach(node, queue)
            self._feed(receiver, place)
            edges.append((len(self.edges), receiver, place, 0))
            self.edges.append((number, output, receiver, place))
        seen.edges = tuple(edges)


@dataclass
class Taken:
    """What was taken during one backward call, as numbers for `Layout`."""

    contributions: list[tuple[int, int, int | None]] = field(default_factory=list)
    receipts: list[tuple[int, int, int, int | None]] = field(default_factory=list)


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
        self._shelf = shelf
        self._journal = journal
        self._hooks = hooks
        self._first: Callable[[], None] | None = on_first
        self._on_error = on_error
        self._handles: list[Any] = []
        # The one contribution to an input, where it is alone: row and identity of the tensor.
        self._alone: dict[tuple[int, int], tuple[int | None, tuple[object, ...]]] = {}

    def hook(self) -> None:
        for number, seen in enumerate(self._graph.seen):
            before = after = on_buffer = 0
            if seen.kind.accumulates or seen.kind.custom:
                handle = seen.node.register_prehook(self._prehook(number))
                before = len(handle.hooks_dict_ref()) - 1
                self._handles.append(handle)
            if seen.kind.accumulates:
                on_buffer = len(
                    getattr(seen.node.variable, "_post_accumulate_grad_hooks", None) or ()
                )
            else:
                handle = seen.node.register_hook(self._posthook(number))
                after = len(handle.hooks_dict_ref()) - 1
                self._handles.append(handle)
            seen.hooks = (hooks_before(seen.node, before), after, on_buffer)
            if seen.hooks[0] or on_buffer:
                lines = self._hooks.lines_of(seen.node)
                seen.saved = seen.saved.having("hooked_at", lines) if lines else seen.saved

    def unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._alone.clear()

    def _prehook(self, number: int) -> Callable[[Any], None]:
        def before(received: tuple[torch.Tensor | None, ...]) -> None:
            try:
                self._start()
                self._graph.seen[number].ran = True
                self._receive(number, received)
            except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
                self._on_error(error)

        return before

    def _posthook(self, number: int) -> Callable[[Any, Any], None]:
        receives = not self._graph.seen[number].kind.custom

        def after(
            sent: tuple[torch.Tensor | None, ...], received: tuple[torch.Tensor | None, ...]
        ) -> None:
            try:
                self._start()
                self._graph.seen[number].ran = True
                rows = self._receive(number, received) if receives else {}
                self._send(number, sent, rows)
            except Exception as error:  # noqa: BLE001
                self._on_error(error)

        return after

    def _start(self) -> None:
        if self._first is not None:
            first, self._first = self._first, None
            first()

    def _receive(
        self, number: int, received: tuple[torch.Tensor | None, ...]
    ) -> dict[tuple[object, ...], int | None]:
        """Take what a node received; the rows by tensor, for what it passes on as it is."""
        rows: dict[tuple[object, ...], int | None] = {}
        hooked = self._graph.seen[number].hooks[0]
        for place, gradient in enumerate(received):
            if gradient is None:
                continue
            same = identity(gradient)
            alone = self._alone.get((number, place))
            if alone is not None and not hooked and same and alone[1] == same:
                row = alone[0]
            else:
                self._count_prehooks(number)
                row = rows[same] if same and same in rows else self._shelf.add(gradient)
            if same:
                rows[same] = row
            self.taken.receipts.append((number, place, self._journal.form(gradient), row))
        return rows

    def _count_prehooks(self, number: int) -> None:
        """Count the user's hooks on a node where what arrived is not the one thing that was sent.

        A node does not tell its hooks; the handle of a hook of ours does. To place one on every
        node would cost more than to ask here.
        """
        seen = self._graph.seen[number]
        if seen.kind.accumulates or seen.kind.custom:
            return  # has one of ours, counted already
        handle = seen.node.register_prehook(_ignore)
        prehooks = len(handle.hooks_dict_ref()) - 1
        handle.remove()
        seen.hooks = (hooks_before(seen.node, prehooks), *seen.hooks[1:])

    def _send(
        self,
        number: int,
        sent: tuple[torch.Tensor | None, ...],
        rows: dict[tuple[object, ...], int | None],
    ) -> None:
        for edge, gradient in zip(self._graph.seen[number].edges, sent, strict=False):
            if edge is None or gradient is None:
                continue
            same = identity(gradient)
            row = rows[same] if same and same in rows else self._shelf.add(gradient)
            if same:
                rows[same] = row
                if edge[3] == 1:
                    self._alone[edge[1], edge[2]] = (row, same)
            self.taken.contributions.append((edge[0], self._journal.form(gradient), row))


def _ignore(received: object) -> None:
    """A hook that does nothing, placed only to be counted."""
