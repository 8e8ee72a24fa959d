"""Storages that know their virtual device, so that torch's own saving and loading work."""

from __future__ import annotations

from typing import Any

import torch

from tracer.devices.attributes import Attributes
from tracer.devices.machine import machine

__all__ = ["install", "is_marked_pinned", "mark", "mark_pinned"]

DEVICE = "_virtual_device"
PINNED = "_virtually_pinned"

_storage_to = torch.UntypedStorage.to
_device_of = torch.UntypedStorage.device.__get__


def mark(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
    """Note on the storage under a virtual tensor which device it pretends to be on."""
    storage.__dict__[DEVICE] = device
    return storage


def mark_pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Pinned memory is ordinary memory that says it is pinned; its views say so too."""
    tensor.untyped_storage().__dict__[PINNED] = True
    return tensor


def is_marked_pinned(tensor: torch.Tensor) -> bool:
    return bool(tensor.layout is torch.strided and PINNED in tensor.untyped_storage().__dict__)


def _device(storage: Any) -> torch.device:
    marked = storage.__dict__.get(DEVICE)
    return marked if marked is not None else _device_of(storage)


def _to(storage: Any, *, device: Any, non_blocking: bool = False) -> Any:
    """Copied to a device, unless it is there; C++ makes storages of its own devices only."""
    gpu = machine().find(device)
    if gpu is None:
        return _storage_to(storage, device=torch.device(device), non_blocking=non_blocking)
    if storage.device == gpu.device:
        return storage
    moved = torch.empty(storage.nbytes(), dtype=torch.uint8, device=gpu.device).untyped_storage()
    return moved.copy_(storage, non_blocking)


def _cuda(storage: Any, device: Any = None, non_blocking: bool = False) -> Any:
    return _to(storage, device=machine().gpu(device).device, non_blocking=non_blocking)


def install(attributes: Attributes) -> None:
    """With its device told and its moves made, torch's own saving and loading need nothing else."""
    attributes.put(torch.UntypedStorage, "device", property(_device))
    attributes.put(torch.UntypedStorage, "to", _to)
    attributes.put(torch.UntypedStorage, "cuda", _cuda)
    attributes.put(
        torch.UntypedStorage,
        "is_pinned",
        lambda storage, device=None: PINNED in storage.__dict__,
    )
