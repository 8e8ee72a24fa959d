"""A job of many ranks in one process: torch's fake process group, and what equal ranks would send.

The script makes its process group as ever; it gets a fake one of the size that was asked for, with
this process as rank 0. A fake operation does nothing. So that the numbers are those of the job, we
put in what would come back if every rank had the same tensors as this one: a sum is W times what
entered, a mean the same, a gathered tensor W copies. DDP's own reducer divides and adds with that.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from tracer.record.operations import Asked, Operation, Slot, reduction_of
from tracer.record.patches import Patches
from tracer.record.quiet import quietly

__all__ = ["Simulation"]


class Simulation:
    """Stands in for the other ranks of a job of `world`."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._patches = Patches()

    def start(self) -> None:
        """From here on every process group is a fake one."""
        begin, group = distributed_c10d.init_process_group, distributed_c10d.new_group

        @functools.wraps(begin)
        def init_process_group(*args: Any, **kwargs: Any) -> None:
            # Loads torch.testing, which only a simulation needs.
            from torch.testing._internal.distributed.fake_pg import FakeStore

            begin("fake", store=FakeStore(), rank=0, world_size=self.world)

        @functools.wraps(group)
        def new_group(
            ranks: Any = None, timeout: Any = None, backend: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            kwargs.pop("pg_options", None)
            return group(ranks, timeout, "fake", **kwargs)

        for module in (dist, distributed_c10d, sys.modules.get("torch.distributed.device_mesh")):
            for name, new in (("init_process_group", init_process_group), ("new_group", new_group)):
                if module is not None and hasattr(module, name):
                    self._patches.replace(module, name, new)

    def stop(self) -> None:
        self._patches.restore()

    def answer(self, operation: Operation, arguments: Mapping[str, Any], result: Any) -> Any:
        """Put in what equal ranks would send; what the operation hands back."""
        group = dist.ProcessGroup.unbox(arguments["process_group"])
        asked = Asked(arguments, range(group.size()), group.rank())
        with quietly():
            left = list(operation.left(asked))
            fill = FILL.get(operation.kind)
            if fill is not None:
                fill(list(operation.entered(asked)), left, asked, _factor(arguments))
        tensors = list({id(slot.tensor): slot.tensor for slot in left}.values())
        return _handed_back(result, tensors)


def _factor(arguments: Mapping[str, Any]) -> Callable[[torch.Tensor, int], None]:
    """What a reduction over so many equal ranks does to a tensor."""
    return REDUCE.get(reduction_of(arguments), _add)


def _add(tensor: torch.Tensor, world: int) -> None:
    tensor.mul_(world)


def _keep(tensor: torch.Tensor, world: int) -> None:
    """A mean, a largest or a smallest of equal ones is what it was."""


def _multiply(tensor: torch.Tensor, world: int) -> None:
    tensor.pow_(world)


REDUCE: Mapping[str, Callable[[torch.Tensor, int], None]] = {
    "sum": _add,
    "avg": _keep,
    "min": _keep,
    "max": _keep,
    "band": _keep,
    "bor": _keep,
    "product": _multiply,
}

Fill = Callable[[list[Slot], list[Slot], Asked, Callable[[torch.Tensor, int], None]], None]


def _reduce(entered: list[Slot], left: list[Slot], asked: Asked, reduce: Any) -> None:
    for slot in left:
        reduce(slot.tensor, len(asked.ranks))


def _scatter(entered: list[Slot], left: list[Slot], asked: Asked, reduce: Any) -> None:
    """This rank's place, from all ranks."""
    mine = [slot for slot in entered if slot.peer == asked.own]
    for source, target in zip(mine, left, strict=True):
        _copy(source, target)
        reduce(target.tensor, len(asked.ranks))


def _gather(entered: list[Slot], left: list[Slot], asked: Asked, reduce: Any) -> None:
    """Every place has what this rank sent."""
    for target in left:
        _copy(entered[target.number % len(entered)], target)


def _exchange(entered: list[Slot], left: list[Slot], asked: Asked, reduce: Any) -> None:
    """Every rank sends to this one what this one sends to itself."""
    mine = next((slot for slot in entered if slot.peer == asked.own), None)
    for target in left:
        if mine is not None and mine.elements == target.elements:
            _copy(mine, target)


def _hand_out(entered: list[Slot], left: list[Slot], asked: Asked, reduce: Any) -> None:
    """A scatter from this rank; what another would send is not known."""
    if asked.is_root:
        _copy(entered[asked.own], left[0])


def _copy(source: Slot, target: Slot) -> None:
    values = source.tensor.reshape(-1)[source.at : source.at + source.elements]
    target.tensor.view(-1)[target.at : target.at + target.elements] = values


FILL: Mapping[str, Fill] = {
    "all_reduce": _reduce,
    "reduce": _reduce,
    "reduce_scatter": _scatter,
    "all_gather": _gather,
    "gather": _gather,
    "all_to_all": _exchange,
    "scatter": _hand_out,
}


def _handed_back(result: Any, tensors: list[torch.Tensor]) -> Any:
    """The same result with a Work whose future has the tensors, as that of a real backend has."""
    future: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future()
    future.set_result(tensors)
    c10d: Any = torch._C._distributed_c10d
    work = c10d._create_work_from_future(future).boxed()
    if isinstance(result, tuple | list):
        return (*result[:-1], work)
    return work
