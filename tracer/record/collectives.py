"""What was exchanged between ranks: every operation of `torch.distributed`, as it passes.

NOTE [Seeing every exchange]
Collectives are started in many ways: by functions of `torch.distributed`, by DDP's reducer in C++,
by functional collectives, by DTensor. All of them pass torch's dispatcher as operators `c10d::*`.
We stand there with kernels for the key BackendSelect, which every call passes on its way to the
kernel of its backend, whatever the device, also without autograd and in inference mode, and which
no operator of c10d uses. (A kernel for an Autograd key misses functional collectives, which exclude
it; a TorchDispatchMode sees everything else as well, and a step takes twice as long under one that
does nothing, where our kernels at rest cost nothing to speak of: `benchmarks/exchanges.py`.) The
operator then runs as ever, with the same arguments, in the same place. We start no collective
and wait for none, so ranks may record different steps, or not record at all.

What leaves an operation is there when it is done. Who waits for it in Python passes `Work.wait`
or asks for its future, and we look just after; functional collectives wait with an operator of
their own; what DDP's reducer waits for is done when its backward call ends. Whatever else is still
open is looked at before the next event, if it is done by then, and never waited for.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from tracer.events import Exchange, Piece, Wrapper
from tracer.record.backward import BackwardCalls
from tracer.record.fsdp import Asking, who_asks
from tracer.record.instrument import Instrument
from tracer.record.journal import Journal
from tracer.record.layouts import describe_pieces
from tracer.record.measure import Shelf, shelf_for
from tracer.record.modules import Modules
from tracer.record.operations import OPERATIONS, Asked, Operation, Slot, reduction_of
from tracer.record.owners import Owned, Owners, address_of, pieces_without_owner
from tracer.record.quiet import quietly
from tracer.record.simulation import Simulation
from tracer.record.sources import Sources

__all__ = ["Exchanges"]


@dataclass
class Open:
    """An exchange that has begun. What is to leave is known; its tensors are kept until it has."""

    fact: Exchange
    leaving: list[Owned]
    pieces: list[Piece]
    shelf: Shelf
    in_call: bool
    work: Any = None
    futures: list[Any] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_closed: bool = False


class Exchanges(Instrument):
    """Stands before every operator of c10d: NOTE [Seeing every exchange]."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        fail: Callable[[Exception], None],
        calls: BackwardCalls,
        owners: Owners,
        join: Callable[[], None],
        simulation: Simulation | None = None,
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._calls = calls
        self._owners = owners
        self._simulation = simulation
        self._join: Callable[[], None] | None = join
        self._libraries: list[Any] = []
        self._open: list[Open] = []
        self._premul: float | None = None
        self._by_frame: dict[Any, int] = {}

    def start(self) -> None:
        if not dist.is_available():
            return
        library = _library("c10d")
        for name, operation in OPERATIONS.items():
            if hasattr(torch.ops.c10d, name):
                operator = getattr(torch.ops.c10d, name).default
                library.impl(name, self._kernel(operator, operation), KEY, with_keyset=True)
        waiting = _library("_c10d_functional")
        operator = torch.ops._c10d_functional.wait_tensor.default
        waiting.impl("wait_tensor", self._wait_kernel(operator), KEY, with_keyset=True)
        self._libraries = [library, waiting]
        self._calls.after_each.append(self._call_ended)
        self._watch_works()
        self._watch_premultiplied()

    def stop(self) -> None:
        for library in self._libraries:
            library._destroy()
        self._libraries.clear()
        if self._call_ended in self._calls.after_each:
            self._calls.after_each.remove(self._call_ended)
        super().stop()

    def settle(self) -> None:
        """Look at what is done by now; what lies in memory may be changed from here on."""
        for opened in list(self._open):
            if _is_done(opened.work):
                self._close(opened)
        self._owners.forget()

    def close(self) -> None:
        """The end: what nobody waited for is written without what left."""
        self.settle()
        for opened in list(self._open):
            self._close(opened, "unfinished")

    # Where exchanges begin.

    def _kernel(self, operator: Any, operation: Operation) -> Callable[..., Any]:
        names = [argument.name for argument in operator._schema.arguments]

        def kernel(keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            if not self.recording and self._simulation is None:
                return operator.redispatch(keys & BEYOND, *args, **kwargs)
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            opened = self._begin(operation, arguments, sys._getframe(1)) if self.recording else None
            try:
                result = operator.redispatch(keys & BEYOND, *args, **kwargs)
                if self._simulation is not None:
                    result = self._simulation.answer(operation, arguments, result)
            except BaseException as error:
                if opened is not None:
                    self._close(opened, f"{type(error).__name__}: {error}")
                raise
            if opened is not None:
                self._launch(opened, result)
            return result

        return kernel

    def _begin(
        self, operation: Operation, arguments: dict[str, Any], frame: FrameType | None
    ) -> Open | None:
        try:
            with quietly():
                return self._prepare(operation, arguments, frame)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)
            return None

    def _prepare(
        self, operation: Operation, arguments: dict[str, Any], frame: FrameType | None
    ) -> Open:
        order, started = self._journal.order(), self._journal.seconds()
        if self._join is not None and dist.is_initialized():
            self._join()
            self._join = None
        group = dist.ProcessGroup.unbox(arguments["process_group"])
        groups, users = self._modules.groups, self._sources.lines(frame)
        asked = Asked(arguments, groups.ranks(group), group.rank())
        running = self._calls.at_work()
        asking = who_asks(frame, self._modules, users, groups)
        stage = (asking, running is not None, running is None and _stands_in(frame))
        entering, wrapper, bucket = self._owned(operation.entered, asked, *stage)
        leaving, also, _ = self._owned(operation.left, asked, *stage)
        self._settle_before([*entering, *leaving])
        op = reduction_of(arguments)
        shelf = shelf_for(self._journal.detail)
        root = arguments.get(operation.root)
        fact = Exchange(
            order=order,
            step=self._journal.step,
            layout=0,
            kind=operation.kind,
            op=op,
            group=groups.number(group),
            factor=self._premul if op == "premul_sum" else None,
            root=None if root is None else asked.ranks[root],
            call=running.order if running else None,
            node=_node_at_work(running),
            wrapper=wrapper if wrapper is not None else also,
            bucket=bucket,
            is_async=bool(arguments.get("async_op", arguments.get("asyncOp", True))),
            source=self._sources.here(frame),
            started=started,
        )
        pieces = [self._piece("entered", owned, shelf) for owned in entering]
        return Open(fact, leaving, pieces, shelf, running is not None)

    def _owned(
        self,
        slots_of: Callable[[Asked], Iterable[Slot]],
        asked: Asked,
        asking: Asking | None,
        in_backward: bool,
        stands_in: bool,
    ) -> tuple[list[Owned], int | None, int | None]:
        """The pieces of what enters or leaves, the wrapper, and the bucket's number there."""
        slots = list(slots_of(asked))
        if asking is not None and asking.is_parameter:
            return pieces_without_owner(slots, "parameter"), None, None
        if asking is not None:
            tensors = {slot.number: slot.tensor for slot in slots}
            found = [
                asking.pieces(number, tensor, asked.ranks) for number, tensor in tensors.items()
            ]
            if found and None not in found:
                pieces = [piece for owned in found if owned is not None for piece in owned]
                return pieces, self._wrapper(asking), None
        pieces, bucket = self._owners.of(slots, in_backward, stands_in)
        if bucket is None:
            return pieces, None, None
        return pieces, bucket.wrapper, bucket.number

    def _wrapper(self, asking: Asking) -> int:
        fields = (asking.kind, None, asking.group, (asking.buffers,))
        return self._journal.intern(
            Wrapper,
            (*fields, repr(asking.details)),
            lambda id: Wrapper(id, *fields, asking.details),
        )

    def _piece(self, moment: str, owned: Owned, shelf: Shelf) -> Piece:
        row = None
        if owned.content != "parameter" and owned.elements:
            row = shelf.add_part(owned.values(), owned.place)
        place = owned.place
        has_place = owned.buffer is not None
        return Piece(
            moment=moment,
            tensor=owned.number,
            at=owned.at,
            elements=owned.elements,
            form=self._journal.form(owned.tensor),
            row=row,
            content=owned.content,
            buffer=owned.buffer,
            start=place.start if place else 0,
            run=place.run if place else owned.elements * has_place,
            stride=place.stride if place else owned.elements * has_place,
            found=owned.found,
            peer=owned.peer,
            tracked=bool(owned.tensor.requires_grad),
        )

    # Where they end.

    def _launch(self, opened: Open, result: Any) -> None:
        """The operation has been started; its `Work` is the last of what it hands back."""
        try:
            work = result[-1] if isinstance(result, tuple | list) else result
            opened.work = None if work is None else dist.Work.unbox(work)
            self._open.append(opened)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _call_ended(self) -> None:
        """What ran inside a backward call is done with it: whoever started it has waited."""
        for opened in list(self._open):
            if opened.in_call and (_is_done(opened.work) or _is_waited_for(opened)):
                self._close(opened)
        self._owners.forget()

    def _settle_before(self, coming: list[Owned]) -> None:
        """Close what is done and is about to be overwritten."""
        addresses = {address_of(owned.tensor) for owned in coming}
        for opened in list(self._open):
            is_reused = any(address_of(owned.tensor) in addresses for owned in opened.leaving)
            if is_reused and _is_done(opened.work):
                self._close(opened)

    def _waited(self, work: Any) -> None:
        for opened in list(self._open):
            if opened.work is work:
                self._close(opened)

    def _close(self, opened: Open, outcome: str = "done") -> None:
        """Measure what left, once, and write the exchange."""
        with opened.lock:
            if opened.is_closed:
                return
            opened.is_closed = True
            try:
                with quietly():
                    self._write(opened, outcome)
            except Exception as error:  # noqa: BLE001
                self._fail(error)
            # Not before: the recorder closes the trace when none is open, and this may be a thread.
            if opened in self._open:
                self._open.remove(opened)

    def _write(self, opened: Open, outcome: str) -> None:
        pieces = list(opened.pieces)
        if outcome == "done":
            pieces += [self._piece("left", owned, opened.shelf) for owned in opened.leaving]
        measured = opened.shelf.fetch()
        fact = opened.fact
        self._journal.add(
            replace(
                fact,
                layout=describe_pieces(self._journal, measured.rows, pieces),
                outcome=outcome,
                measurements=measured.measurements,
                values=measured.values,
            )
        )

    # Who waits for them.

    def _watch_works(self) -> None:
        wait, get_future = dist.Work.wait, dist.Work.get_future

        def waiting(work: Any, *args: Any, **kwargs: Any) -> Any:
            result = wait(work, *args, **kwargs)
            if self._open:
                self._waited(work)
            return result

        def getting_future(work: Any) -> Any:
            future = get_future(work)
            for opened in list(self._open):
                if opened.work is work:
                    opened.futures.append(future)
                    # Before any callback of the user's, which may change what left.
                    future.add_done_callback(lambda _: self._waited(work))
            return future

        self._patches.replace(dist.Work, "wait", waiting)
        self._patches.replace(dist.Work, "get_future", getting_future)
        for name in ("wait", "value"):
            self._patches.replace(torch._C.Future, name, self._having(name))

    def _having(self, name: str) -> Callable[..., Any]:
        """Who waits for a future goes on before, or while, its callbacks run in another thread."""
        get = getattr(torch._C.Future, name)

        def having(future: Any, *args: Any) -> Any:
            result = get(future, *args)
            for opened in list(self._open) if self._open else ():
                if any(known is future for known in opened.futures):
                    self._close(opened)
            return result

        return having

    def _wait_kernel(self, operator: Any) -> Callable[..., Any]:
        def kernel(keys: torch._C.DispatchKeySet, tensor: torch.Tensor) -> Any:
            result = operator.redispatch(keys & BEYOND, tensor)
            if self._open:
                for opened in list(self._open):
                    if any(
                        address_of(owned.tensor) == address_of(tensor) for owned in opened.leaving
                    ):
                        self._close(opened)
            return result

        return kernel

    def _watch_premultiplied(self) -> None:
        """The factor of PREMUL_SUM: torch keeps it where only its backends can read it."""
        make = getattr(dist, "_make_nccl_premul_sum", None)
        if make is None:
            return

        def making(factor: Any) -> Any:
            self._premul = float(factor)
            return make(factor)

        owners = [dist, *(sys.modules[name] for name in PREMULTIPLYING if name in sys.modules)]
        for owner in owners:
            if getattr(owner, "_make_nccl_premul_sum", None) is make:
                self._patches.replace(owner, "_make_nccl_premul_sum", making)


_future_of = dist.Work.get_future

KEY = "BackendSelect"
BEYOND = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)

PREMULTIPLYING = (
    "torch.distributed.distributed_c10d",
    "torch.distributed.fsdp._fully_shard._fsdp_collectives",
)
"""Modules of torch that make a PREMUL_SUM, and have imported the function by name."""


def _library(namespace: str) -> Any:
    """A set of kernels for operators of a namespace, empty at first. (Library is not typed.)"""
    make: Any = torch.library.Library
    return make(namespace, "IMPL")


def _is_done(work: Any) -> bool:
    """Whether it is over. Gloo completes the future, which DDP waits for, before the Work."""
    if work is None or work.is_completed():
        return True
    try:
        return bool(_future_of(work).done())
    except RuntimeError:  # a backend without futures
        return False


def _stands_in(frame: FrameType | None) -> bool:
    """Whether DDP takes part for a rank that has no batch left, with zeros (Join)."""
    for _ in range(6):
        if frame is None:
            return False
        if frame.f_code.co_name == "_match_all_reduce_for_bwd_pass":
            return True
        frame = frame.f_back
    return False


def _is_waited_for(opened: Open) -> bool:
    """Off the CPU a Work may still run after someone waited: what comes later waits for it."""
    return all(not owned.tensor.is_cpu for owned in opened.leaving)


def _node_at_work(running: Any) -> int | None:
    """The number of the autograd node that is being run, in the structure of its call."""
    if running is None:
        return None
    node = torch._C._current_autograd_node()
    number: int | None = running.graph.index.get(node) if node is not None else None
    return number
