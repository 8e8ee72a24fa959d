"""Storages that know their virtual device, so that torch's own saving and loading work."""

from __future__ import annotations

from typing import Any

import torch

from tracer.devices.attributes import Attributes

__all__ = ["install", "is_marked_pinned", "mark", "mark_pinned"]

DEVICE = "_virtual_device"
PINNED = "_virtually_pinned"

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


def install(attributes: Attributes) -> None:
    """With its device told, `torch.save` and `torch.load` need nothing else: they ask for it,
    copy through `storage.cpu()` and `torch.empty(..., device=...)`, and both are ours already."""
    attributes.put(torch.UntypedStorage, "device", property(_device))
    attributes.put(
        torch.UntypedStorage,
        "is_pinned",
        lambda storage, device=None: PINNED in storage.__dict__,
    )
