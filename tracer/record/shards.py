"""Which elements of a parameter a rank holds: DTensor and FSDP cut parameters into parts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from tracer.events import Shape
from tracer.record.groups import Groups

__all__ = [
    "Place",
    "place_of",
    "place_of_spec",
    "placements_of",
    "sharded_originals",
    "whole_name",
    "within",
]

WRAPPING = frozenset(["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"])
"""What wrappers put into the path of a parameter, and nobody else does."""


class Place(NamedTuple):
    """Where the elements of a part lie in the whole: see `tracer.events.Part`."""

    start: int
    run: int
    stride: int


def place_of(tensor: torch.Tensor) -> Place | None:
    """Where the local part of a DTensor lies in it; None where it is whole, or cannot be said.

    What is replicated, or summed over the ranks later (Partial), has every element in its place.
    """
    spec = getattr(tensor, "_spec", None)
    if spec is None or spec.tensor_meta is None:
        return None
    if not any(placement.is_shard() for placement in spec.placements):
        return None
    return place_of_spec(spec)


def placements_of(tensor: torch.Tensor, groups: Groups) -> tuple[tuple[int, str], ...]:
    """How a DTensor lies over each dimension of its mesh, by the group; () for other tensors."""
    spec: Any = getattr(tensor, "_spec", None)
    numbers = None if spec is None else groups.of_mesh(spec.mesh)
    if numbers is None:
        return ()
    return tuple(
        (number, repr(placement).replace("dim=", ""))
        for number, placement in zip(numbers, spec.placements, strict=True)
    )


def whole_name(name: str) -> str:
    """A parameter's path without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING)


@lru_cache(maxsize=4096)
def place_of_spec(spec: Any) -> Place | None:
    # Loaded already, as there is a DTensor; torch.distributed.tensor is too slow to load for all.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    whole = tuple(spec.shape)
    sizes, offsets = compute_local_shape_and_global_offset(whole, spec.mesh, spec.placements)
    return _place_of_block(whole, tuple(sizes), tuple(offsets))


def _place_of_block(whole: Shape, sizes: Shape, offsets: Shape) -> Place | None:
    """A block of a row-major tensor as runs at equal distances, None where they are not."""
    if math.prod(sizes) == 0:
        return Place(0, 0, 0)
    steps = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
    start = sum(offset * step for offset, step in zip(offsets, steps, strict=True))
    cut = [axis for axis, size in enumerate(sizes) if size != whole[axis]]
    last = cut[-1] if cut else 0
    run = sizes[last] * steps[last] if sizes else 1
    # Before the last axis that is cut, only the first that is longer than 1 may be cut as well.
    longer = [axis for axis in range(last) if sizes[axis] > 1]
    if any(sizes[axis] != whole[axis] for axis in longer[1:]):
        return None
    stride = steps[longer[-1]] if longer else run
    if len(longer) > 1 and steps[longer[0]] != stride * math.prod(sizes[longer[0] + 1 : last]):
        return None
    return Place(start, run, stride)


def within(outer: Place | None, first: int, elements: int) -> Place | None:
    """Where elements `first` to `first + elements` of a part lie in the whole."""
    if outer is None or outer.run == 0:
        return Place(first, elements, elements)
    if first // outer.run == (first + elements - 1) // outer.run:
        start = outer.start + first // outer.run * outer.stride + first % outer.run
        return Place(start, elements, elements)
    if first % outer.run:
        return None
    return Place(outer.start + first // outer.run * outer.stride, outer.run, outer.stride)


def sharded_originals(root: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The parameters that FSDP2 gathers for autograd to work on, and what each is gathered from."""
    if "torch.distributed.fsdp._fully_shard._fsdp_param_group" not in sys.modules:
        return
    for module in root.modules():
        for group in _param_groups(module):
            for param in group.fsdp_params:
                gathered = getattr(param, "_unsharded_param", None)
                if gathered is not None:
                    yield gathered, param.sharded_param


def _param_groups(module: nn.Module) -> Sequence[Any]:
    """The FSDP2 parameter groups of a module; newer torch may have several."""
    get_state = getattr(module, "_get_fsdp_state", None)
    if get_state is None:
        return ()
    state = get_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is not None:
        return tuple(groups)
    group = getattr(state, "_fsdp_param_group", None)
    return () if group is None else (group,)
