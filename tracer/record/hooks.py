"""Hook each node of a graph, take each contribution, unhook."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from tracer.record.arenas import ARENA_ELEMENTS
from tracer.record.graphs import ALONE, KEPT, NO_HOOKS, Graph
from tracer.record.hookcalls import HookCalls, Ours
from tracer.record.journal import Journal
from tracer.record.measure import ORDINARY, BlindShelf, Shelf, identity, is_small, keys_of
from tracer.record.nodes import hooks_before

__all__ = ["Taken", "Watch"]

Identity = tuple[object, ...]
Gradients = tuple[torch.Tensor | None, ...]
Rows = dict[Identity, int]
Sent = tuple[int, int, Identity, int, int]
"""The one contribution to an input: the tensor's id (not the tensor: nothing is kept), its version,
its identity, its row, its form."""

PERMUTING = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})
"""Pass on the very memory that they received, in another order."""


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
        self._forms = journal.ordinary_forms
        self._user_hooks = hooks
        self._first: Callable[[], None] | None = on_first
        self._on_error = on_error
        self._hooked: list[dict[Any, Any]] = []
        self._keys: list[Any] = []
        self._sent: dict[int, Sent] = {}
        """What was sent along edges whose end nothing else meets."""
        self._arrived: dict[int, tuple[Identity, int]] = {}

    def hook(self) -> None:
        graph, leaves, tensor_hooks = self._graph, self._graph.leaves, self._graph.tensor_hooks
        before = self._note_before if self._is_blind else self._before
        before_leaf = self._note_before if self._is_blind else self._hook_before_leaf()
        after = self._note_after if self._is_blind else self._hook_after()
        for number, (node, kind) in enumerate(zip(graph.nodes, graph.kinds, strict=True)):
            if kind.accumulates:
                self._hook_leaf(number, leaves[number], before_leaf)
            elif kind.custom:
                self._hook_custom(number, before, after)
            else:
                others = self._place(node.register_hook, Ours(after, number))
                if others or number in tensor_hooks:
                    self._note_hooks(number, hooks_before(node, 0), others, 0)

    def _hook_leaf(self, number: int, leaf: torch.Tensor, before: Callable[..., None]) -> None:
        node = self._graph.nodes[number]
        prehooks = self._place(node.register_prehook, Ours(before, number))
        on_buffer = len(getattr(leaf, "_post_accumulate_grad_hooks", None) or ())
        if prehooks or on_buffer or leaf._backward_hooks or number in self._graph.tensor_hooks:
            self._note_hooks(number, hooks_before(node, prehooks), 0, on_buffer)

    def _hook_custom(
        self, number: int, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        node = self._graph.nodes[number]
        prehooks = self._place(node.register_prehook, Ours(before, number))
        behind = self._place(node.register_hook, Ours(after, number))
        self._note_hooks(number, hooks_before(node, prehooks), behind, 0)

    def _note_hooks(self, number: int, before: int, behind: int, on_buffer: int) -> None:
        """Hooks of the user on a node."""
        if not (before or behind or on_buffer):
            return
        graph = self._graph
        graph.hooks[number] = (before, behind, on_buffer)
        graph.runs_python = True
        if before or on_buffer:
            lines = self._user_hooks.lines_of(graph.nodes[number])
            if lines:
                graph.saved[number] = graph.saved[number].having("hooked_at", lines)

    def _place(self, register: Callable[[Ours], Any], hook: Ours) -> int:
        """Place a hook of ours, and remember it; how many others are there."""
        handle = register(hook)
        if type(handle) is OrderedDict:
            hooks, key = handle, hook
        else:  # the recorder was stopped meanwhile: it is torch's own handle
            hooks, key = handle.hooks_dict_ref(), handle.id
        self._hooked.append(hooks)
        self._keys.append(key)
        return len(hooks) - 1

    def unhook(self) -> None:
        for hooks, key in zip(self._hooked, self._keys, strict=True):
            hooks.pop(key, None)
        self._hooked, self._keys = [], []
        self._sent.clear()

    def _start(self) -> None:
        """Called in the first hook."""
        if self._first is not None:
            first, self._first = self._first, None
            first()

    def _before(self, number: int, received: Gradients) -> None:
        """The pre-hook of a Python function."""
        try:
            self._start()
            self._graph.ran[number] = 1
            rows: Rows = {}
            for place, gradient in enumerate(received):
                if gradient is not None:
                    self._receive(number, place, gradient, rows)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._on_error(error)

    def _hook_before_leaf(self) -> Callable[[int, Gradients], None]:
        """The pre-hook of a leaf; as `_hook_after` says."""
        graph, ran, sent_along, arrived = self._graph, self._graph.ran, self._sent, self._arrived
        fed, hooks, receive = graph.plan.fed, graph.hooks, self._receive
        add_receipt = self.taken.receipts.append
        Tensor = torch.Tensor  # noqa: N806

        def before(number: int, received: Gradients) -> None:
            try:
                if self._first is not None:
                    self._start()
                ran[number] = 1
                gradient = received[0]
                if gradient is None:
                    return
                came = sent_along.get(fed[number])
                if (
                    came is not None
                    and id(gradient) == came[0]
                    and gradient._version == came[1]
                    and type(gradient) is Tensor
                    and number not in hooks
                ):
                    del sent_along[fed[number]]
                    _, _, same, row, form = came
                    arrived[number] = (same, row)
                    add_receipt(number)
                    add_receipt(0)
                    add_receipt(form)
                    add_receipt(row)
                else:
                    rows: Rows = {}
                    receive(number, 0, gradient, rows)
                    if rows:
                        arrived[number] = next(iter(rows.items()))
            except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
                self._on_error(error)

        return before

    def _hook_after(self) -> Callable[[int, Gradients, Gradients], None]:
        """The post-hook of every other node, and of a Python function, which has a pre-hook too.

        It runs for each node of each call. What is usual stands in it, with all it needs in reach:
        small tensors in plain memory, received as they were sent.
        """
        graph, plan, ran, sent_along = self._graph, self._graph.plan, self._graph.ran, self._sent
        first, edge_of, marks, fed = plan.first, plan.edge_of, plan.marks, plan.fed
        hooks = graph.hooks
        customs = {n for n, k in enumerate(graph.kinds) if k.custom} if plan.has_custom else ()
        forms, form_of = self._forms, self._form
        receive, send = self._receive, self._send
        add_small, add_turned = self._shelf.add_small, self._shelf.add_turned
        add_edge, add_receipt = self.taken.contributions.append, self.taken.receipts.append
        Tensor, float32, float64 = torch.Tensor, torch.float32, torch.float64  # noqa: N806
        keys, ordinary, small = keys_of, ORDINARY, ARENA_ELEMENTS

        def after(number: int, sent: Gradients, received: Gradients) -> None:
            try:
                if self._first is not None:
                    self._start()
                ran[number] = 1
                rows: Rows = {}
                same: Identity
                for place, gradient in enumerate(received):
                    if gradient is None or number in customs:
                        continue
                    came = None if place else sent_along.get(fed[number])
                    if (
                        came is not None
                        and id(gradient) == came[0]
                        and gradient._version == came[1]
                        and type(gradient) is Tensor
                        and number not in hooks
                    ):
                        del sent_along[fed[number]]
                        _, _, same, row, form = came
                        rows[same] = row
                        add_receipt(number)
                        add_receipt(0)
                        add_receipt(form)
                        add_receipt(row)
                    else:
                        receive(number, place, gradient, rows)
                output = first[number]
                for gradient in sent:
                    edge = edge_of[output]
                    output += 1
                    if gradient is None or edge < 0:
                        continue
                    if (
                        type(gradient) is not Tensor
                        or keys(gradient).raw_repr() != ordinary
                        or not 0 < (elements := gradient.numel()) <= small
                        or ((dtype := gradient.dtype) is not float32 and dtype is not float64)
                    ):
                        send(number, edge, gradient, rows)
                        continue
                    version = gradient._version
                    same = (gradient.data_ptr(), version, elements, dtype)
                    if not gradient.is_contiguous():
                        same = (same[0], version, dtype, gradient.shape, gradient.stride())
                    found = rows.get(same)
                    if found is None:
                        if len(same) == 4:
                            found = add_small(same, marks[edge] & KEPT)
                        else:
                            found = add_turned(gradient)
                        if found is None:
                            send(number, edge, gradient, rows)
                            continue
                        rows[same] = found
                    known = forms.get((gradient.shape, dtype))
                    form = form_of(gradient) if known is None else known
                    add_edge(edge)
                    add_edge(form)
                    add_edge(found)
                    if marks[edge] & ALONE:
                        sent_along[edge] = (id(gradient), version, same, found, form)
            except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
                self._on_error(error)

        return after

    def _note_before(self, number: int, received: Gradients) -> None:
        """The pre-hook where only shapes are taken."""
        self._note_after(number, (), received)

    def _note_after(self, number: int, sent: Gradients, received: Gradients) -> None:
        """The post-hook where only shapes are taken."""
        try:
            self._start()
            graph, taken, form = self._graph, self.taken, self._form
            graph.ran[number] = 1
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
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._on_error(error)

    def taken_over(self) -> dict[int, tuple[Identity, int]]:
        """What leaves received, by node: its identity, its row; it may be their buffers now.

        None of what cannot be told again by address and version, and none at all where something
        has run that could write past these.
        """
        if self._graph.runs_python or _is_distributed():
            return {}
        return self._arrived

    def _receive(self, number: int, place: int, gradient: torch.Tensor, rows: Rows) -> None:
        """Take what a node received; note its row, for what the node passes on as it is."""
        plan = self._graph.plan
        edge = plan.more_fed.get((number, place), -1) if place else plan.fed[number]
        alone = self._sent.pop(edge, None)
        if (
            alone is not None
            and not self._graph.hooks.get(number, NO_HOOKS)[0]
            and _is_still(gradient, alone)
        ):
            _, _, same, row, form = alone
            rows[same] = row
            self.taken.receipts.extend((number, place, form, row))
            return
        self._count_prehooks(number)
        same = identity(gradient)
        row = rows.get(same, -1) if same else -1
        if row < 0:
            row = self._measure(gradient, same, kept=number in self._graph.leaves)
        if same:
            rows[same] = row
        self.taken.receipts.extend((number, place, self._form(gradient), row))

    def _measure(self, gradient: torch.Tensor, same: Identity, **how: Any) -> int:
        row = self._shelf.add(gradient, same, **how)
        return -1 if row is None else row

    def _count_prehooks(self, number: int) -> None:
        """Count the user's hooks on a node where what arrived is not the one thing that was sent.

        A node does not tell its hooks; the handle of a hook of ours does. To place one on every
        node would cost more than to ask here.
        """
        graph = self._graph
        if number in graph.leaves or graph.kinds[number].custom:
            return  # has one of ours, counted already
        handle = graph.nodes[number].register_prehook(_ignore)
        prehooks = len(handle.hooks_dict_ref()) - 1
        handle.remove()
        before = hooks_before(graph.nodes[number], prehooks)
        known = graph.hooks.get(number, NO_HOOKS)
        if before != known[0]:
            graph.hooks[number] = (before, *known[1:])

    def _send(self, number: int, edge: int, gradient: torch.Tensor, rows: Rows) -> None:
        """Take what a node sends along an edge."""
        same = identity(gradient)
        row = rows.get(same, -1) if same else -1
        if row < 0 or not self._shelf.has_fingerprint(row):
            kept = bool(self._graph.plan.marks[edge] & KEPT)
            if is_small(same):
                row = self._shelf.add_small(same, kept)
            elif gradient.numel() > ARENA_ELEMENTS:
                row = self._measure(gradient, same, **self._how(edge, same, rows))
            else:
                row = self._measure(gradient, same, kept=kept)
        form = self._form(gradient)
        if same:
            rows[same] = row
            if self._graph.plan.marks[edge] & ALONE and row >= 0:
                self._sent[edge] = (id(gradient), gradient._version, same, row, form)
        self.taken.contributions.extend((edge, form, row))

    def _how(self, edge: int, same: Identity, rows: Rows) -> dict[str, Any]:
        """How to measure a large tensor: see `Shelf.add`."""
        mark, receiver = self._graph.plan.marks[edge], self._graph.edges[4 * edge + 2]
        waits = (
            self._graph.kinds[receiver].name in PERMUTING
            and bool(mark & ALONE)
            and not self._graph.hooks.get(receiver, NO_HOOKS)[0]
        )
        like = next((row for known, row in rows.items() if known[:2] == same[:2]), None)
        return {"kept": bool(mark & KEPT), "projected": not waits, "like": like}


def _is_still(gradient: torch.Tensor, sent: Sent) -> bool:
    """Whether what arrived is the tensor that was sent, unchanged."""
    address, version, same, _, _ = sent
    is_known = (
        type(gradient) is torch.Tensor and id(gradient) == address and gradient._version == version
    )
    return is_known or identity(gradient) == same


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _ignore(received: object) -> None:
    """A hook that does nothing, placed only to be counted."""
