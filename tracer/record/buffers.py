"""The ledger of .grad: what was in a buffer before and after, who emptied it, who consumed it."""

from __future__ import annotations

import functools
import marshal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tracer.events import Reset, Step
from tracer.record.instrument import Instrument
from tracer.record.journal import Interned, Journal
from tracer.record.layouts import Read, describe_readings
from tracer.record.measure import Shelf, identity, quietly, shelf_for
from tracer.record.modules import Modules
from tracer.record.quiet import grad_of
from tracer.record.shards import place_held
from tracer.record.sources import Sources
from tracer.record.straight import Left, Straight

Groups = tuple[dict[str, Any], ...]

__all__ = ["Resets", "Steps", "leaves_of_optimizer", "read_buffers"]


def read_buffers(
    leaves: Iterable[tuple[int, torch.Tensor]],
    moment: str,
    shelf: Shelf,
    journal: Journal,
    left: Mapping[int, Left] = MappingProxyType({}),
) -> list[Read]:
    """Measure the `.grad` of each leaf that has one. `left`: NOTE [Straight to the step]."""
    readings: list[Read] = []
    for buffer, leaf in leaves:
        gradient = grad_of(leaf)
        if gradient is not None:
            known = left.get(buffer)
            if known is not None and identity(gradient) == known.same:
                row: int | None = shelf.put(*known)
            else:
                row = shelf.add_part(gradient, place_held(leaf), recalled=True)
            readings.append((buffer, moment, journal.form(gradient), row))
    return readings


class Resets(Instrument):
    """`zero_grad` of optimizers and modules."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        fail: Callable[[Exception], None],
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._depth = 0

    def start(self) -> None:
        for owner, leaves in ((Optimizer, leaves_of_optimizer), (nn.Module, _leaves_of_module)):
            self._patches.replace(owner, "zero_grad", self._noting(owner.zero_grad, leaves))

    def _noting(
        self, zero_grad: Callable[..., None], leaves: Callable[[Any], list[torch.Tensor]]
    ) -> Callable[..., None]:
        @functools.wraps(zero_grad)
        def noting(owner: Any, set_to_none: bool = True) -> None:
            held = leaves(owner) if self.recording else []
            filled = [leaf for leaf in held if grad_of(leaf) is not None]
            self._depth += 1
            try:
                zero_grad(owner, set_to_none)
            finally:
                self._depth -= 1
            if filled and not self._depth:
                self._note(owner, filled, bool(set_to_none))

        return noting

    def _note(self, owner: Any, filled: list[torch.Tensor], set_to_none: bool) -> None:
        try:
            frame = sys._getframe(2)
            users = self._sources.lines(frame)
            self._journal.add(
                Reset(
                    order=self._journal.order(),
                    step=self._journal.step,
                    by=f"{type(owner).__qualname__}.zero_grad",
                    set_to_none=set_to_none,
                    buffers=tuple(self._modules.buffer(leaf, users) for leaf in filled),
                    source=self._sources.innermost(users),
                    started=self._journal.seconds(),
                )
            )
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)


def leaves_of_optimizer(optimizer: Optimizer) -> list[torch.Tensor]:
    return [leaf for group in optimizer.param_groups for leaf in group["params"]]


def _leaves_of_module(module: nn.Module) -> list[torch.Tensor]:
    return list(module.parameters())


class Steps(Instrument):
    """`optimizer.step()`, through torch's global optimizer hooks: the windows of the run."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        straight: Straight,
        fail: Callable[[Exception], None],
        on_step: Callable[[], None],
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._straight = straight
        self._on_step = on_step
        self._optimizers = Interned()
        self._groups: dict[int, tuple[bytes, Groups]] = {}
        self._on_thread = threading.local()
        self._valued: set[int] = set()
        self._handles: list[Any] = []

    def start(self) -> None:
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        step: Step | None = None
        if self.recording:
            try:
                with quietly():
                    step = self._consume(optimizer, _has_closure(args, kwargs))
            except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
                self._fail(error)
        opened = self._open()
        # What an exception inside an earlier step() left open is not around this one.
        del opened[_depth(sys._getframe(1)) - 1 :]
        opened.append((weakref.ref(optimizer), step))

    def _open(self) -> list[tuple[weakref.ref[Optimizer], Step | None]]:
        """The steps that have begun on this thread, the outermost first."""
        opened: list[Any] = self._on_thread.__dict__.setdefault("open", [])
        return opened

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        opened = self._open()
        while opened:
            begun, step = opened.pop()
            if begun() is optimizer:  # else it is one inside, that an exception left open
                break
        else:
            return
        try:
            if step is not None and self.recording:
                self._journal.add(step)
            if not opened:  # of nested optimizers the outermost ends the window
                self._on_step()
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _consume(self, optimizer: Optimizer, has_closure: bool) -> Step:
        frame = sys._getframe(2)
        users = self._sources.lines(frame)
        left = self._straight.arrive(frame, self._journal.events, self._before)
        shelf = shelf_for(self._journal.detail)
        groups, leaves = [], []
        for group in optimizer.param_groups:
            members = [(self._modules.buffer(leaf, users), leaf) for leaf in group["params"]]
            leaves += members
            frozen = [buffer for buffer, leaf in members if not leaf.requires_grad]
            plain = {"buffers": [buffer for buffer, _ in members], "frozen": frozen}
            groups.append({**_options(group), **plain})
        # With a closure the gradients are made inside step(): nothing is consumed yet.
        readings: list[Read] = []
        if not has_closure:
            unique = dict(leaves)
            readings = read_buffers(unique.items(), "consumed", shelf, self._journal, left)
            readings += self._first_values(unique, readings, shelf)
        measured = shelf.fetch()
        number = self._optimizers(id(optimizer))
        return Step(
            order=self._journal.order(),
            step=self._journal.step,
            layout=describe_readings(self._journal, measured.rows, readings),
            optimizer=number,
            kind=type(optimizer).__qualname__,
            groups=self._same_groups(number, tuple(groups)),
            source=self._sources.innermost(users),
            started=self._journal.seconds(),
            measurements=measured.measurements,
            values=measured.values,
        )

    def _same_groups(self, optimizer: int, groups: Groups) -> Groups:
        """The very groups of the step before where nothing has changed: their text is known."""
        try:
            key = marshal.dumps(groups, 2)  # tells 1 from 1.0 and from True, as `==` does not
        except ValueError:  # an option of a type of its own: an enumeration
            return groups
        known = self._groups.get(optimizer)
        if known is None or known[0] != key:
            known = self._groups[optimizer] = (key, groups)
        return known[1]

    def _first_values(
        self, leaves: dict[int, torch.Tensor], consumed: list[Read], shelf: Shelf
    ) -> list[Read]:
        """The parameters themselves, once each: whether two runs began with the same weights."""
        new = [buffer for buffer, *_ in consumed if buffer not in self._valued]
        self._valued.update(new)
        return [(id, "value", self._journal.form(leaves[id]), shelf.add(leaves[id])) for id in new]


def _depth(frame: FrameType) -> int:
    """How many calls of `step` are on the stack: all run in the one wrapper that calls hooks."""
    code, depth = frame.f_code, 0
    around: FrameType | None = frame
    while around is not None:
        depth += around.f_code is code
        around = around.f_back
    return depth


def _has_closure(args: Any, kwargs: Any) -> bool:
    # The hooks get the optimizer itself as the first of args.
    return kwargs.get("closure") is not None or any(callable(arg) for arg in args[1:])


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The plain options of a parameter group; a learning rate kept as a tensor is a number too."""
    options: dict[str, Any] = {}
    for name, value in group.items():
        if name in ("params", "param_names"):
            continue
        if type(value) in SIMPLE:
            options[name] = value
            continue
        plain = [_plain(v) for v in value] if isinstance(value, tuple | list) else _plain(value)
        if plain is not _NOT_PLAIN and not (isinstance(plain, list) and _NOT_PLAIN in plain):
            options[name] = plain
    return options


SIMPLE = frozenset({type(None), bool, int, float, str})

_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """The value if a trace can hold it: Adafactor's eps is (None, 1e-3), betas may be tensors."""
    if isinstance(value, torch.Tensor):
        return float(value.detach()) if value.numel() == 1 else _NOT_PLAIN
    return value if value is None or isinstance(value, bool | int | float | str) else _NOT_PLAIN
