"""The operations of `torch.distributed`: what enters each of them, and what leaves.

Every one, whoever asks for it (Python, DDP's reducer in C++, functional collectives), is called
through torch's dispatcher as an operator of the namespace `c10d`. A row of the table says for one
operator which of its arguments enter and which leave, and which rank each place in them is of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

__all__ = ["OPERATIONS", "Operation", "Slot", "reduction_of"]


class Slot(NamedTuple):
    """Elements `at` to `at + elements` of a tensor that enters or leaves; `peer` as in `Piece`."""

    number: int
    tensor: torch.Tensor
    at: int
    elements: int
    peer: int | None = None


@dataclass(frozen=True)
class Asked:
    """An operation as it was asked for: its arguments by name, its group, this rank in it."""

    arguments: Mapping[str, Any]
    ranks: Sequence[int]
    own: int

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def is_root(self) -> bool:
        return bool(self.arguments["root_rank"] == self.own)


Slots = Iterator[Slot]


@dataclass(frozen=True)
class Operation:
    kind: str
    entered: Callable[[Asked], Slots]
    left: Callable[[Asked], Slots]
    root: str = ""
    """The argument that names another rank, by its number in the group."""


def _whole(*names: str) -> Callable[[Asked], Slots]:
    """Tensors, one after the other."""

    def slots(asked: Asked) -> Slots:
        found: list[torch.Tensor] = []
        for name in names:
            value = asked[name]
            found += [value] if isinstance(value, torch.Tensor) else value
        for number, tensor in enumerate(found):
            yield Slot(number, tensor, 0, tensor.numel())

    return slots


def _equal(name: str) -> Callable[[Asked], Slots]:
    """Tensors with an equal place for each rank of the group."""

    def slots(asked: Asked) -> Slots:
        value = asked[name]
        for number, tensor in enumerate([value] if isinstance(value, torch.Tensor) else value):
            each = tensor.numel() // len(asked.ranks)
            for place, peer in enumerate(asked.ranks):
                yield Slot(number, tensor, place * each, each, peer)

    return slots


def _listed(name: str) -> Callable[[Asked], Slots]:
    """A list of a tensor per rank, or such a list inside another."""

    def slots(asked: Asked) -> Slots:
        value = asked[name]
        tensors = value[0] if value and not isinstance(value[0], torch.Tensor) else value
        for number, (tensor, peer) in enumerate(zip(tensors, asked.ranks, strict=False)):
            yield Slot(number, tensor, 0, tensor.numel(), peer)

    return slots


def _split(name: str, sizes: str) -> Callable[[Asked], Slots]:
    """A tensor cut along its first dimension; without sizes, equally."""

    def slots(asked: Asked) -> Slots:
        tensor, lengths = asked[name], list(asked[sizes])
        if not lengths:
            yield from _equal(name)(asked)
            return
        row = tensor[0].numel() if len(tensor) else 0
        at = 0
        for length, peer in zip(lengths, asked.ranks, strict=False):
            yield Slot(0, tensor, at, length * row, peer)
            at += length * row

    return slots


def _of_root(slots: Callable[[Asked], Slots]) -> Callable[[Asked], Slots]:
    """Only on the root."""
    return lambda asked: slots(asked) if asked.is_root else iter(())


def _nothing(asked: Asked) -> Slots:
    return iter(())


_tensors = _whole("tensors")

OPERATIONS: Mapping[str, Operation] = {
    "allreduce_": Operation("all_reduce", _tensors, _tensors),
    "allreduce_coalesced_": Operation("all_reduce", _tensors, _tensors),
    "reduce_": Operation("reduce", _tensors, _of_root(_tensors), "root_rank"),
    "broadcast_": Operation("broadcast", _of_root(_tensors), _tensors, "root_rank"),
    "reduce_scatter_": Operation(
        "reduce_scatter", _listed("input_tensors"), _whole("output_tensors")
    ),
    "_reduce_scatter_base_": Operation(
        "reduce_scatter", _equal("input_tensor"), _whole("output_tensor")
    ),
    "reduce_scatter_tensor_coalesced_": Operation(
        "reduce_scatter", _equal("inputs"), _whole("outputs")
    ),
    "allgather_": Operation("all_gather", _whole("input_tensors"), _listed("output_tensors")),
    "_allgather_base_": Operation("all_gather", _whole("input_tensor"), _equal("output_tensor")),
    "allgather_coalesced_": Operation(
        "all_gather", _whole("input_list"), lambda asked: _unlisted(asked["output_lists"])
    ),
    "allgather_into_tensor_coalesced_": Operation(
        "all_gather", _whole("inputs"), _equal("outputs")
    ),
    "gather_": Operation(
        "gather", _whole("input_tensors"), _of_root(_listed("output_tensors")), "root_rank"
    ),
    "scatter_": Operation(
        "scatter", _of_root(_listed("input_tensors")), _whole("output_tensors"), "root_rank"
    ),
    "alltoall_": Operation("all_to_all", _listed("input_tensors"), _listed("output_tensors")),
    "alltoall_base_": Operation(
        "all_to_all", _split("input", "input_split_sizes"), _split("output", "output_split_sizes")
    ),
    "send": Operation("send", _tensors, _nothing, "dst"),
    "recv_": Operation("recv", _nothing, _tensors, "src"),
    "recv_any_source_": Operation("recv", _nothing, _tensors),
    "barrier": Operation("barrier", _nothing, _nothing),
}


def _unlisted(lists: Sequence[Sequence[torch.Tensor]]) -> Slots:
    for number, tensor in enumerate(tensor for inner in lists for tensor in inner):
        yield Slot(number, tensor, 0, tensor.numel())


REDUCTIONS = ("sum", "avg", "product", "min", "max", "band", "bor", "bxor", "premul_sum")
"""By their number in torch's RedOpType."""


def reduction_of(asked: Mapping[str, Any]) -> str:
    """How it reduces; "" where it does not, or where this torch (2.6) does not tell."""
    operator = asked.get("reduce_op")
    number = operator.op() if operator is not None and operator._has_method("op") else -1
    return REDUCTIONS[number] if 0 <= number < len(REDUCTIONS) else ""
