"""The ways of an ordinary tensor to a virtual GPU: `.cuda()`, `.to`, `copy_`, `pin_memory`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.overrides import handle_torch_function

from tracer.devices.attributes import Attributes
from tracer.devices.machine import CPU, machine
from tracer.devices.storages import is_marked_pinned, mark_pinned
from tracer.devices.tensor import LAZY_HOME, VirtualTensor, move, move_as_asked, set_data

__all__ = ["install"]

_make_real = UninitializedTensorMixin.materialize
_copy = torch.Tensor.copy_
_type_as = torch.Tensor.type_as
_data = torch.Tensor.__dict__.get("data", torch._C.TensorBase.data)
_is_compatible = torch._has_compatible_shallow_copy_type
_parse_to = torch._C._nn._parse_to

PLAIN = (torch.Tensor, torch.nn.Parameter, VirtualTensor)


def _method_of_tensor(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of Tensor that subclasses with a `__torch_function__` of their own still see."""
    original = getattr(torch.Tensor, name)

    def decorate(new: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def _method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if type(self) not in PLAIN and torch.overrides.has_torch_function_unary(self):
                args = tuple(machine().gpu(a).device if type(a) is int else a for a in args)
                return handle_torch_function(original, (self,), self, *args, **kwargs)
            return new(self, *args, **kwargs)

        return _method

    return decorate


@_method_of_tensor("cuda")
def _cuda(
    self: torch.Tensor,
    device: Any = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> torch.Tensor:
    return move(self, machine().gpu(device).device, memory_format=memory_format)


@_method_of_tensor("to")
def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return move_as_asked(self, *args, **kwargs)


@_method_of_tensor("copy_")
def _copy_(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if src.requires_grad and src.device != self.device and torch.is_grad_enabled():
        src = move(src, self.device)
    return _copy(self, src, non_blocking)


@_method_of_tensor("type_as")
def _as_type_of(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if isinstance(self, VirtualTensor) or isinstance(other, VirtualTensor):
        return move(self, other.device, other.dtype)
    return _type_as(self, other)


@_method_of_tensor("pin_memory")
def _pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    return self if is_marked_pinned(self) else mark_pinned(self.clone())


@_method_of_tensor("is_pinned")
def _is_pinned(self: torch.Tensor, device: Any = None) -> bool:
    return is_marked_pinned(self)


def _have_compatible_types(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Asked by `Module.cuda()`, which then keeps the parameter and replaces its `.data`."""
    if isinstance(one, VirtualTensor) or isinstance(other, VirtualTensor):
        return True
    return _is_compatible(one, other)


def _parsed(*args: Any, **kwargs: Any) -> Any:
    """Asked by `Module.to(0)`; C++ would look for an accelerator of its own."""
    if args and type(args[0]) is int:
        args = (machine().gpu(args[0]).device, *args[1:])
    if type(kwargs.get("device")) is int:
        kwargs["device"] = machine().gpu(kwargs["device"]).device
    return _parse_to(*args, **kwargs)


def _materialize(
    self: Any, shape: Any, device: Any = None, dtype: torch.dtype | None = None
) -> None:
    """Give a lazy parameter its shape: on the CPU, and then where its module was moved."""
    home = self.__dict__.pop(LAZY_HOME, None) if device is None else device
    gpu = machine().find(home)
    _make_real(self, shape, home if gpu is None else CPU, dtype)
    if gpu is not None:
        self.data = move(self.data, gpu.device)


def install(attributes: Attributes) -> None:
    attributes.put_all(
        torch.Tensor,
        {
            "cuda": _cuda,
            "to": _to,
            "copy_": _copy_,
            "type_as": _as_type_of,
            "pin_memory": _pin_memory,
            "is_pinned": _is_pinned,
            "data": property(_data.__get__, set_data),
        },
    )
    attributes.put(torch, "_has_compatible_shallow_copy_type", _have_compatible_types)
    attributes.put(UninitializedTensorMixin, "materialize", _materialize)
    attributes.put(torch._C._nn, "_parse_to", _parsed)
