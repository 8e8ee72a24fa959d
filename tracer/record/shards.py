"""Which elements of a parameter a rank holds: DTensor and FSDP cut parameters into parts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from tracer.events import Part, Shape
from tracer.record.groups import Groups

__all__ = [
    "Place",
    "flat_extents",
    "flat_parts",
    "part_held",
    "place_held",
    "place_of",
    "place_of_spec",
    "placements_of",
    "put_flat_parts",
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


_parts: Any = WeakIdKeyDictionary()
"""Parts that tensors hold without saying so themselves: what FSDP1 leaves of its parameters."""


def put_part(tensor: torch.Tensor, part: Part) -> None:
    """Remember which part of a parameter a tensor holds."""
    _parts[tensor] = part


def part_held(tensor: torch.Tensor) -> Part | None:
    """The part that was said to be held by it."""
    found: Part | None = _parts.get(tensor) if _parts else None
    return found


def place_held(tensor: torch.Tensor) -> Place | None:
    part = part_held(tensor)
    return None if part is None else Place(part.start, part.run, part.stride)


def flat_extents(flat: Any) -> Iterator[tuple[int, int]]:
    """Where each parameter begins in a flat one of FSDP1, and how many elements it has."""
    at = 0
    for elements, is_padding in zip(flat._numels_with_padding, flat._is_padding_mask, strict=True):
        if not is_padding:
            yield at, elements
        at += elements


def flat_parts(flat: Any) -> tuple[Part, ...]:
    """The parameters in a flat one of FSDP1; () for other tensors."""
    if not hasattr(flat, "_numels_with_padding"):
        return ()
    return tuple(
        Part(whole_name(name), tuple(shape), 0, elements, elements, elements, at)
        for name, shape, (at, elements) in zip(
            flat._fqns, flat._shapes, flat_extents(flat), strict=True
        )
    )


def put_flat_parts(flat: Any, rank: int, each: int) -> None:
    """Remember which part of each parameter this rank is left with: `each` elements of the flat."""
    for number, (at, elements) in enumerate(flat_extents(flat)):
        low, high = max(at, rank * each), min(at + elements, (rank + 1) * each)
        count = max(high - low, 0)
        if flat._params is not None:
            name, shape = whole_name(flat._fqns[number]), tuple(flat._shapes[number])
            start = max(low - at, 0) if count else 0
            put_part(flat._params[number], Part(name, shape, start, count, count, count))
    if flat._params is None:
        put_part(flat, Part("", (), rank * each, each, each, each))


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


def sharded_originals(
    modules: Iterable[nn.Module],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The parameters that FSDP2 gathers for autograd to work on, and what each is gathered from."""
    if "torch.distributed.fsdp._fully_shard._fsdp_param_group" not in sys.modules:
        return
    for module in modules:
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
