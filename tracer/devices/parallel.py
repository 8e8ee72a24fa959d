"""The copies under `DataParallel`: what torch/csrc/cuda/comm.cpp adds to `torch._C`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.cuda import nccl
from torch.nn.parallel import _functions

from tracer.devices.attributes import Attributes
from tracer.devices.machine import CPU, machine
from tracer.devices.tensor import VirtualTensor, move

__all__ = ["install"]

_broadcast_backward: Any = _functions.Broadcast.backward
_scatter_backward: Any = _functions.Scatter.backward


def _device(index: int) -> torch.device:
    return CPU if index < 0 else machine().gpu(index).device


def _copied(tensor: torch.Tensor, index: int) -> torch.Tensor:
    """On another device, or the very tensor where it is there already."""
    return move(tensor, _device(index))


def _broadcast(tensor: torch.Tensor, devices: Sequence[int]) -> tuple[torch.Tensor, ...]:
    if tensor.is_cuda and tensor.get_device() != devices[0]:
        raise RuntimeError("Expected first of devices to be the device of the tensor")
    return tuple(_copied(tensor, device) for device in devices)


def _broadcast_out(tensor: torch.Tensor, outs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    for out in outs:
        if out is not tensor:
            out.copy_(tensor)
    return tuple(outs)


def _broadcast_coalesced(
    tensors: Sequence[torch.Tensor], devices: Sequence[int], buffer_size: int
) -> list[list[torch.Tensor]]:
    """The first device keeps the tensors themselves; copies have version counters of their own."""
    if not all(tensor.get_device() == devices[0] for tensor in tensors):
        raise RuntimeError(f"all tensors must be on devices[0]: {devices[0]}")
    copies = [[_copied(tensor, device).data for tensor in tensors] for device in devices[1:]]
    return [list(tensors), *copies]


def _scatter(
    tensor: torch.Tensor,
    devices: Sequence[int],
    chunk_sizes: Sequence[int] | None,
    dim: int,
    streams: Any,
) -> tuple[torch.Tensor, ...]:
    if chunk_sizes is None:
        chunks = tensor.chunk(len(devices), dim)
    else:
        chunks = tensor.split_with_sizes(list(chunk_sizes), dim)
    return tuple(_copied(chunk, device) for chunk, device in zip(chunks, devices, strict=False))


def _scatter_out(
    tensor: torch.Tensor, outs: Sequence[torch.Tensor], dim: int, streams: Any
) -> tuple[torch.Tensor, ...]:
    sizes = [out.size(dim) for out in outs]
    for out, chunk in zip(outs, tensor.split_with_sizes(sizes, dim), strict=True):
        out.copy_(chunk)
    return tuple(outs)


def _gather(tensors: Sequence[torch.Tensor], dim: int, destination: int | None) -> torch.Tensor:
    index = machine().current if destination is None else destination
    return torch.cat([_copied(tensor, index) for tensor in tensors], dim)


def _gather_out(tensors: Sequence[torch.Tensor], out: torch.Tensor, dim: int) -> torch.Tensor:
    return out.copy_(torch.cat([move(tensor, out.device) for tensor in tensors], dim))


# NOTE [Gradients of nobody]
# Where an output of a Python Function reaches no loss, the engine makes up a gradient of zeros for
# it. C++ makes them where it believes that the output was, on the CPU, and torch's Broadcast and
# Scatter then ask each gradient for its GPU. They know their GPUs; so those zeros are labelled.


def _labelled(gradient: Any, index: int) -> Any:
    if type(gradient) is not torch.Tensor:
        return gradient
    return VirtualTensor.wrap(gradient, machine().gpu(index))


def _backward_of_broadcast(ctx: Any, *gradients: Any) -> Any:
    places = [gpu for gpu in ctx.target_gpus for _ in range(ctx.num_inputs)]
    labelled = [_labelled(g, index) for g, index in zip(gradients, places, strict=True)]
    return _broadcast_backward(ctx, *labelled)


def _backward_of_scatter(ctx: Any, *gradients: Any) -> Any:
    # Scatter does not keep its GPUs; the engine's zeros may say any, as they are gathered at once.
    labelled = [_labelled(g, 0) for g in gradients]
    return _scatter_backward(ctx, *labelled)


def install(attributes: Attributes) -> None:
    attributes.put_all(
        torch._C,
        {
            "_broadcast": _broadcast,
            "_broadcast_out": _broadcast_out,
            "_broadcast_coalesced": _broadcast_coalesced,
            "_scatter": _scatter,
            "_scatter_out": _scatter_out,
            "_gather": _gather,
            "_gather_out": _gather_out,
        },
    )
    # `comm.reduce_add` then adds in Python, in the order of the GPUs.
    attributes.put(nccl, "is_available", lambda tensors: False)
    attributes.put(_functions.Broadcast, "backward", staticmethod(_backward_of_broadcast))
    attributes.put(_functions.Scatter, "backward", staticmethod(_backward_of_scatter))
