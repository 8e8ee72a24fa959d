"""`torch.cuda.FloatTensor` and its like, from the time before `device=`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tracer.devices.attributes import Attributes
from tracer.devices.machine import machine
from tracer.devices.tensor import VirtualTensor, move

__all__ = ["install"]

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip

_type = torch.Tensor.type
_set_default_tensor_type = torch.set_default_tensor_type


class _TensorType(type):
    """A class that makes tensors, and tells them by dtype and device."""

    dtype: torch.dtype
    is_cuda = True

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, VirtualTensor) and instance.dtype is cls.dtype

    def __repr__(cls) -> str:
        return f"<class 'torch.cuda.{cls.__name__}'>"

    def __call__(cls, *args: Any, device: Any = None) -> torch.Tensor:
        place = machine().gpu(device).device
        if len(args) == 1 and not isinstance(args[0], int | torch.Size):
            return torch.as_tensor(args[0]).to(place, cls.dtype)
        return torch.empty(*(args or (0,)), dtype=cls.dtype, device=place)


def _typed(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    """`Tensor.type`, asked for a name, or to convert."""
    if dtype is None:
        name = str(_type(self))
        if isinstance(self, VirtualTensor):
            return f"torch.cuda.{name.rpartition('.')[2]}"
        return name
    if isinstance(dtype, str) and dtype.startswith("torch.cuda."):
        dtype = getattr(torch.cuda, dtype.rpartition(".")[2])
    if isinstance(dtype, _TensorType):
        gpu = self._gpu if isinstance(self, VirtualTensor) else machine().gpu()
        return move(self, gpu.device, dtype.dtype)
    if isinstance(self, VirtualTensor) and not isinstance(dtype, torch.dtype):
        return move(self.cpu(), None).type(dtype)
    return _type(self, dtype, non_blocking=non_blocking, **kwargs)


def _default_type(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def set_default_tensor_type(t: Any) -> None:
        if isinstance(t, str) and t.startswith("torch.cuda."):
            t = getattr(torch.cuda, t.rpartition(".")[2])
        if isinstance(t, _TensorType):
            torch.set_default_dtype(t.dtype)
            torch.set_default_device("cuda")
        else:
            torch.set_default_device(None)
            original(t)

    return set_default_tensor_type


def install(attributes: Attributes) -> None:
    for name, dtype in DTYPES.items():
        type_ = _TensorType(f"{name}Tensor", (), {"dtype": dtype, "__module__": "torch.cuda"})
        attributes.put(torch.cuda, type_.__name__, type_)
    attributes.put(torch.Tensor, "type", _typed)
    attributes.put(torch, "set_default_tensor_type", _default_type(_set_default_tensor_type))
