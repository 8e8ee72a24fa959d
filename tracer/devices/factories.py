"""New tensors: `torch.zeros(..., device="cuda:1")`, `torch.tensor`, `torch.device(0)`."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._device
from torch.overrides import get_testing_overrides

from tracer.devices import dispatch
from tracer.devices.attributes import Attributes
from tracer.devices.generators import refuse_other
from tracer.devices.machine import CPU, machine
from tracer.devices.storages import mark_pinned
from tracer.devices.tensor import VirtualTensor, move, send_home

# The recorder names an operation after the function of torch that the user called; names with an
# underscore are not taken for one, so the wrappers below have one.

__all__ = ["Kernels", "install", "overload_named"]

MAKERS = (
    "empty", "empty_permuted", "empty_strided", "empty_quantized", "ones", "zeros", "full",
    "arange", "range", "eye", "linspace", "logspace", "rand", "randn", "randint", "randperm",
    "bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window",
    "sparse_coo_tensor", "sparse_csr_tensor", "tril_indices", "triu_indices", "scalar_tensor",
    "empty_like", "ones_like", "zeros_like", "full_like", "rand_like", "randn_like", "randint_like",
    "normal", "bernoulli", "multinomial", "poisson", "frombuffer",
)  # fmt: skip
"""Functions of torch that make a tensor, on a device or with a generator."""

NEWCOMERS = (
    "new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full",
)  # fmt: skip

DRAWERS = (
    "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_",
    "log_normal_", "multinomial", "bernoulli",
)  # fmt: skip
"""Methods of a tensor that take a generator."""

WITHOUT_ARGUMENTS = (
    "empty.memory_format", "empty_strided", "_efficientzerotensor", "tril_indices", "triu_indices",
    "randperm.generator", "empty_quantized",
)  # fmt: skip
"""Operators that a CUDA build has kernels for and that no tensor leads to our dispatch."""

FROM_DATA = ("tensor", "as_tensor", "asarray")

_Device = torch.device


# Torch 2.6 has no such argument, and asks no permission.
_OVERRIDES: dict[str, Any] = (
    {"allow_override": True}
    if "allow_override" in inspect.signature(torch.library.Library.impl).parameters
    else {}
)


class Kernels:
    """Kernels of ours in torch's dispatcher, for as long as there are virtual GPUs."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []

    def add(self, key: str, kernels: dict[str, Callable[..., Any]]) -> None:
        """Put kernels of aten operators, by name, at a dispatch key."""
        library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        self._libraries.append(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a CUDA build warns of each that we override
            for name, kernel in kernels.items():
                library.impl(name, kernel, key, **_OVERRIDES)

    def add_fallback(self, key: str, kernel: Callable[..., Any]) -> None:
        """For all operators that have no kernel at this key."""
        library: Any = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
        self._libraries.append(library)
        library.fallback(kernel, key)

    def remove(self) -> None:
        while self._libraries:
            self._libraries.pop()._destroy()


def overload_named(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _on_gpu(overload: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return dispatch.run(VirtualTensor, overload, args, kwargs)

    return kernel


def _anything_on_gpu(overload: Any, *args: Any, **kwargs: Any) -> Any:
    return dispatch.run(VirtualTensor, overload, args, kwargs)


def _default_device() -> torch.device | None:
    """`torch.get_default_device()` calls `torch.tensor` to find out: it would ask us again."""
    return torch.utils._device.CURRENT_DEVICE


def _maker(function: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that takes a number for a device, pins memory, and heeds its generator."""

    @functools.wraps(function)
    def _make(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            return function(*args)
        device = kwargs.get("device")
        if device is not None:
            gpu = machine().find(device)
            kwargs["device"] = device if gpu is None else gpu.device
        if kwargs.get("generator") is not None:
            wanted = kwargs.get("device") or _default_device() or CPU
            first = args[0] if args else None
            is_cuda = torch.device(wanted).type == "cuda" or isinstance(first, VirtualTensor)
            refuse_other(kwargs["generator"], is_cuda)
        if kwargs.pop("pin_memory", False):
            return mark_pinned(function(*args, **kwargs))
        return function(*args, **kwargs)

    return _make


def _from_data(function: Callable[..., Any], copies: bool) -> Callable[..., Any]:
    """`torch.tensor` and its like: C++ would ask a real GPU for its memory."""

    @functools.wraps(function)
    def _make(data: Any, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.pop("device", None)
        if args:  # as_tensor(data, dtype, device)
            kwargs["dtype"], *rest = args
            device = rest[0] if rest else device
        if device is None:
            device = data.device if isinstance(data, VirtualTensor) else _default_device()
        gpu = machine().find(device)
        pins = kwargs.pop("pin_memory", False)
        if gpu is None:
            source = move(data, CPU) if isinstance(data, VirtualTensor) else data
            made = function(source, device=device, **kwargs)
            return mark_pinned(made) if pins else made
        if isinstance(data, VirtualTensor) and not copies:
            return move(data, gpu.device, kwargs.get("dtype"), bool(kwargs.get("copy")))
        wants_gradient = kwargs.pop("requires_grad", False)
        kwargs.pop("copy", None)
        source = move(data.detach(), CPU) if isinstance(data, VirtualTensor) else data
        made = move(function(_on_cpu(source), device=CPU, **kwargs), gpu.device)
        return made.requires_grad_() if wants_gradient else made

    return _make


def _on_cpu(data: Any) -> Any:
    """Nested lists may hold virtual numbers, as in `torch.tensor([loss_a, loss_b])`."""
    if isinstance(data, list | tuple):
        return [_on_cpu(item) for item in data]
    return data.item() if isinstance(data, VirtualTensor) and data.dim() == 0 else data


def _drawer(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def _draw(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is not None:
            refuse_other(kwargs["generator"], isinstance(self, VirtualTensor))
        return function(self, *args, **kwargs)

    return _draw


def _new_tensor(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def _new(self: torch.Tensor, data: Any, **kwargs: Any) -> Any:
        if machine().find(kwargs.get("device")) is None:
            return function(self, data, **kwargs)
        return torch.tensor(data, **{"dtype": self.dtype, **kwargs})

    return _new


class _DeviceType(type):
    """`torch.device(0)` is 'cuda:0', for which C++ would ask an accelerator that is not there."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Device)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _Device)

    def __call__(cls, *args: Any, **kwargs: Any) -> torch.device:
        if len(args) == 1 and not kwargs and type(args[0]) is int:
            return _Device("cuda", args[0])
        return _Device(*args, **kwargs)

    def __eq__(cls, other: object) -> bool:
        return other is _Device or other is cls

    def __hash__(cls) -> int:
        return hash(_Device)


def install(attributes: Attributes, kernels: Kernels) -> None:
    # What is computed once from the names of torch shall be computed from the true ones.
    torch.utils._device._device_constructors()
    get_testing_overrides()
    for name in MAKERS:
        attributes.put(torch, name, _maker(getattr(torch, name)))
    for name in FROM_DATA:
        attributes.put(torch, name, _from_data(getattr(torch, name), name == "tensor"))
    for name in NEWCOMERS:
        attributes.put(torch.Tensor, name, _maker(getattr(torch.Tensor, name)))
    for name in DRAWERS:
        attributes.put(torch.Tensor, name, _drawer(getattr(torch.Tensor, name)))
    attributes.put(torch.Tensor, "new_tensor", _new_tensor(torch.Tensor.new_tensor))
    attributes.put(torch, "device", _DeviceType("device", (), {"__module__": "torch"}))
    kernels.add("CUDA", {name: _on_gpu(overload_named(name)) for name in WITHOUT_ARGUMENTS})
    kernels.add_fallback("CUDA", _anything_on_gpu)
    for key in ("AutogradCUDA", "AutogradCPU"):
        kernels.add(key, {"to.dtype_layout": send_home})
