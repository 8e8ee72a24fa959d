"""What FSDP exchanges: the frames of torch on the stack say which parameters, and where each lies.

Nothing of FSDP is replaced. Its reductions are Python functions that stand on the stack while their
collective runs; their variables are read there, and not kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from tracer.record.groups import Groups
from tracer.record.modules import Modules, variables
from tracer.record.owners import Owned
from tracer.record.shards import Place, flat_extents, place_of_spec, put_flat_parts, within

__all__ = ["Asking", "who_asks"]

DEPTH = 12
"""How many frames above a collective its asker is looked for."""


@dataclass(frozen=True)
class Shard:
    """A part of a buffer's gradient at a place in a flat tensor, going to `peer`, in the group."""

    at: int
    elements: int
    buffer: int
    place: Place | None
    peer: int


@dataclass(frozen=True)
class Asking:
    """Who asks for a collective, as far as its frame tells.

    `whole` is the tensor with a place for each rank of the group, `own` the one with the place of
    this rank; `shards` is how the whole one is laid out, each rank's place `each` elements long.
    """

    kind: str
    is_parameter: bool = False
    whole: int = 0
    own: int = 0
    each: int = 0
    rank: int = 0
    shards: tuple[Shard, ...] = ()
    group: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def buffers(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(shard.buffer for shard in self.shards))

    def pieces(self, number: int, tensor: torch.Tensor, ranks: Sequence[int]) -> list[Owned] | None:
        """The parts of gradients that one of the two tensors holds; `ranks` are the group's.

        None for another tensor. A rank may be left with nothing but padding.
        """
        address = tensor.data_ptr()
        if address == self.whole and tensor.numel() > self.each:
            return [
                self._owned(shard, number, tensor, shard.at, ranks[shard.peer])
                for shard in self.shards
            ]
        if address in (self.own, self.whole) and tensor.numel() >= self.each:
            return [
                self._owned(shard, number, tensor, shard.at - self.rank * self.each, None)
                for shard in self.shards
                if shard.peer == self.rank
            ]
        return None

    @staticmethod
    def _owned(shard: Shard, number: int, tensor: torch.Tensor, at: int, peer: int | None) -> Owned:
        known = shard.place is not None
        return Owned(
            number, tensor, at, shard.elements, "gradient", shard.buffer if known else None,
            shard.place, "wrapper", peer,
        )  # fmt: skip


Reader = Callable[[Mapping[str, Any], Modules, list[FrameType], Groups], "Asking | None"]


def who_asks(
    frame: FrameType | None, modules: Modules, users: list[FrameType], groups: Groups
) -> Asking | None:
    """The wrapper whose collective this is, None where none is known."""
    for _ in range(DEPTH):
        if frame is None:
            return None
        code = frame.f_code
        reader = ASKERS.get(code.co_name)
        if reader is not None and os.path.basename(code.co_filename) in FILES:
            with variables(frame) as found:
                return reader(found, modules, users, groups)
        frame = frame.f_back
    return None


def _parameters(
    found: Mapping[str, Any], modules: Modules, users: list[FrameType], groups: Groups
) -> Asking:
    """Parameters are gathered or handed round: no gradients."""
    return Asking("", is_parameter=True)


def _fsdp2(
    found: Mapping[str, Any], modules: Modules, users: list[FrameType], groups: Groups
) -> Asking | None:
    whole, own = found.get("reduce_scatter_input"), found.get("reduce_output")
    group = found.get("reduce_scatter_group")
    if own is None or found.get("padded_unsharded_sizes") is None:
        return None
    world, rank = (1, 0) if group is None else (group.size(), group.rank())
    sizes = [size.numel() // world for size in found["padded_unsharded_sizes"]]
    shards: list[Shard] = []
    at = 0
    for param, size in zip(found["fsdp_params"], sizes, strict=True):
        buffer = modules.buffer(param.sharded_param, users)
        for peer in range(world):
            elements, place = _chunk(param, peer, world)
            if elements:
                shards.append(Shard(peer * sum(sizes) + at, elements, buffer, place, peer))
        at += size
    replicas = found.get("all_reduce_group")
    return Asking(
        "FSDP2",
        whole=whole.data_ptr() if whole is not None else 0,
        own=own.data_ptr(),
        each=sum(sizes),
        rank=rank,
        shards=tuple(shards),
        group=None if group is None else groups.number(group),
        details={
            "predivide": found.get("predivide_factor"),
            "postdivide": found.get("postdivide_factor"),
            "divide_factor": found.get("gradient_divide_factor"),
            "replicas": None if replicas is None else groups.number(replicas),
        },
    )


def _chunk(param: Any, peer: int, world: int) -> tuple[int, Place | None]:
    """How many elements of a parameter go to a rank of its group, and which of the whole."""
    size, axis = tuple(param._orig_size), param.fsdp_placement.dim
    outer = place_of_spec(_spec_before(param)) if param.is_dtensor else None
    if not size:
        return (1, Place(0, 1, 1)) if peer == 0 else (0, None)
    each = -(-size[axis] // world)
    low, high = min(peer * each, size[axis]), min((peer + 1) * each, size[axis])
    inner = torch.Size(size[axis + 1 :]).numel()
    elements = torch.Size(size[:axis]).numel() * (high - low) * inner
    if axis == 0:
        return elements, within(outer, low * inner, elements)
    if param.is_dtensor and outer is not None:
        return elements, None
    return elements, Place(low * inner, (high - low) * inner, size[axis] * inner)


def _spec_before(param: Any) -> Any:
    """How a parameter that was a DTensor before FSDP lies on its mesh (called so before 2.13)."""
    spec = getattr(param, "_unsharded_dtensor_spec", None)
    return param._tp_spec if spec is None else spec


def _fsdp1(
    found: Mapping[str, Any], modules: Modules, users: list[FrameType], groups: Groups
) -> Asking | None:
    handle, state = found.get("handle"), found.get("state")
    if handle is None or state is None:
        return None
    flat, group = handle.flat_param, state.process_group
    whole = found.get("padded_unsharded_grad")
    own = found.get("new_sharded_grad")
    if whole is None:  # not sharded: the whole gradient is reduced
        whole = own = flat.grad
        world, rank = 1, 0
    else:
        world, rank = group.size(), group.rank()
    if whole is None or own is None:
        return None
    each = whole.numel() // world
    if world > 1:
        put_flat_parts(flat, rank, each)
    replicas = getattr(state, "_inter_node_pg", None)
    return Asking(
        "FSDP1",
        whole=whole.data_ptr(),
        own=own.data_ptr(),
        each=each,
        rank=rank,
        shards=tuple(_flat_shards(flat, each, world, modules, users)),
        group=groups.number(group),
        details={
            "strategy": handle._sharding_strategy.name,
            "use_orig_params": handle._use_orig_params,
            "predivide": state._gradient_predivide_factor,
            "postdivide": state._gradient_postdivide_factor,
            "hook": _name(state._comm_hook),
            "replicas": None if replicas is None or world == 1 else groups.number(replicas),
        },
    )


def _flat_shards(
    flat: Any, each: int, world: int, modules: Modules, users: list[FrameType]
) -> Iterator[Shard]:
    """The parameters in a flat one, cut where the place of one rank ends and the next begins."""
    whole = None if flat._params is not None else modules.buffer(flat, users)
    for number, (start, elements) in enumerate(flat_extents(flat)):
        buffer = modules.buffer(flat._params[number], users) if whole is None else whole
        for peer in range(start // each, min((start + elements - 1) // each + 1, world)):
            low, high = max(start, peer * each), min(start + elements, (peer + 1) * each)
            first = low - start if whole is None else low
            if high > low:
                yield Shard(low, high - low, buffer, Place(first, high - low, high - low), peer)


def _name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__qualname__)) if hook else ""


ASKERS: Mapping[str, Reader] = {
    "foreach_reduce": _fsdp2,
    "foreach_all_gather": _parameters,
    "_reduce_grad": _fsdp1,
    "_reduce_grad_no_shard": _fsdp1,
    "_all_gather_flat_param": _parameters,
    "_sync_module_states": _parameters,
    "_sync_params": _parameters,
    "_broadcast_params_from_rank": _parameters,
}
"""Functions of torch that ask for collectives, and what their variables say of them."""

FILES = frozenset(
    [
        "_fsdp_collectives.py",
        "_runtime_utils.py",
        "_flat_param.py",
        "utils.py",
        "zero_redundancy_optimizer.py",
    ]
)
