"""What happens to an operator on virtual tensors: it runs on the CPU, and its results are labelled.

NOTE [True and pretended]
True: the values, the autograd graph above this level (torch's own C++ nodes), the views and their
bases, the version counters, and the Python code of torch for CUDA, which runs unchanged above us.
Pretended: the device. To C++ a virtual tensor is a CPU tensor whose dispatch keys are those of
CUDA (so that autograd and autocast treat it as one of CUDA's), and only Python reads 'cuda:1'. So
C++ code that says "a new tensor where this one is" (`self.options()`) asks for the CPU. Where it
says so to us, about a tensor of ours, we know better and keep it on its GPU; where it makes a CPU
tensor behind our back, we let it meet virtual ones, see NOTE [Who made this CPU tensor].

NOTE [Who made this CPU tensor]
CUDA refuses operators whose tensors lie on several devices, and scripts rely on that. But a CPU
tensor that meets a virtual one may have been made by C++ for itself (`at::arange(n,
self.options())` inside `one_hot`). The two are told apart by reference counts: what a script can
name is held by the script too, and what C++ has made is held by nobody else in Python. During a
backward nothing is refused, as the engine makes up zeros of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import torch

from tracer.devices.machine import CPU, Allocation, Gpu, machine

if TYPE_CHECKING:
    from tracer.devices.tensor import VirtualTensor

__all__ = ["Operator", "know", "run"]

MIXES = frozenset((
    "copy_", "copy", "_to_copy", "index", "_unsafe_index", "index_put", "index_put_",
    "_unsafe_index_put", "_index_put_impl_", "_pack_padded_sequence", "_ctc_loss",
    "_ctc_loss_backward", "_use_cudnn_ctc_loss", "set_", "is_set_to", "_cudnn_rnn", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "lift_fresh", "_foreach_copy_", "_fused_adam_", "_fused_adamw_",
    "_fused_sgd_", "_fused_adagrad_", "_fill_mem_eff_dropout_mask_", "_assert_async",
    "is_same_size", "tensor_split",
))  # fmt: skip
"""Operators that CUDA lets have tensors on several devices: indices, lengths, sources."""

RESHAPES = frozenset(["resize_", "set_", "resize_as_", "_resize_output_"])

OWNED_BY_CPP = 4
"""References to a tensor of which no script knows: C++, the arguments, the loop, the counting.

A Python that counts fewer makes us refuse less, never too much.
"""


class Operator:
    """What the schema of an operator says, looked up once."""

    __slots__ = (
        "is_mutable", "is_random", "is_view", "keeps_device", "makes_device", "mixes", "name",
        "renews", "returns_input", "takes_generator",
    )  # fmt: skip

    def __init__(self, overload: Any) -> None:
        schema, tags = overload._schema, overload.tags
        names = {argument.name for argument in schema.arguments}
        writes_out = any(argument.is_out for argument in schema.arguments)
        aliases = [r.alias_info for r in schema.returns if r.alias_info is not None]
        self.name: str = schema.name.partition("::")[2]
        self.is_view = any(not alias.is_write for alias in aliases)
        self.is_mutable: bool = schema.is_mutable
        self.makes_device = "device" in names
        self.keeps_device = self.name == "to"
        self.takes_generator = "generator" in names
        self.is_random = torch.Tag.nondeterministic_seeded in tags and not self.takes_generator
        self.mixes = self.name in MIXES
        # Changes the shape or strides of what it is given, of which C++ must be told.
        self.renews = torch.Tag.inplace_view in tags or self.name in RESHAPES or writes_out
        self.returns_input = self.is_mutable or not torch._C._dispatch_has_kernel_for_dispatch_key(
            overload.name(), "CPU"
        )


_known: dict[Any, Operator] = {}


def know(overload: Any) -> Operator:
    """The facts about an operator."""
    operator = _known.get(overload)
    if operator is None:
        operator = _known[overload] = Operator(overload)
    return operator


def run(
    kind: type[VirtualTensor],
    overload: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> Any:
    """Run an operator whose arguments hold virtual tensors, or that makes one from nothing."""
    operator = _known.get(overload) or know(overload)
    virtual: list[VirtualTensor] = []
    strangers: list[torch.Tensor] = []
    values: list[Any] = []
    for argument in args:
        type_ = type(argument)
        if type_ is kind:
            virtual.append(argument)
            argument = argument._virtual_values
        elif type_ is list or type_ is tuple:
            argument = _inside(kind, argument, virtual, strangers)
        elif type_ is torch.Tensor:
            if getrefcount(argument) > OWNED_BY_CPP or _is_view_of_scripts(argument):
                strangers.append(argument)
        elif type_ is torch.nn.Parameter:
            strangers.append(argument)
        values.append(argument)
    named: dict[str, Any] = {}
    if kwargs:
        for name, argument in kwargs.items():
            if type(argument) is kind:
                virtual.append(argument)
                argument = argument._virtual_values
            elif type(argument) in (list, tuple):
                argument = _inside(kind, argument, virtual, strangers)
            named[name] = argument
    gpu = virtual[0]._gpu if virtual else None
    if (strangers or len(virtual) > 1) and not operator.mixes:
        _check_devices(virtual, strangers)
    if operator.makes_device:
        gpu = _target(operator, gpu, named)
    if operator.takes_generator and (gpu or virtual):
        _choose_generator(gpu or virtual[0]._gpu, values, named)
    if operator.is_random and gpu is not None:
        results = _with_seed_of(gpu, overload, values, named)
    else:
        results = overload(*values, **named)
    if operator.renews:
        _renew(virtual)
    return _label(kind, operator, results, args, virtual, gpu)


def _inside(
    kind: type[VirtualTensor],
    items: Any,
    virtual: list[VirtualTensor],
    strangers: list[torch.Tensor],
) -> Any:
    """The values of the tensors in a list; virtual and strange ones are noted."""
    found = []
    for item in items:
        if type(item) is kind:
            virtual.append(item)
            item = item._virtual_values
        elif type(item) is torch.Tensor and getrefcount(item) > OWNED_BY_CPP:
            strangers.append(item)
        found.append(item)
    return found


def _is_view_of_scripts(tensor: torch.Tensor) -> bool:
    """Whether C++ made it as a view of what a script holds, as `linear` does of its weight."""
    base = tensor._base
    if base is None:
        return False
    return type(base) is torch.nn.Parameter or getrefcount(base) >= OWNED_BY_CPP


def _check_devices(virtual: list[VirtualTensor], strangers: list[torch.Tensor]) -> None:
    """Refuse tensors of several devices, as CUDA does; numbers may lie anywhere."""
    if not virtual or torch._C._current_graph_task_id() != -1:
        return
    gpu = virtual[0]._gpu
    for other in virtual:
        if other._gpu is not gpu and other.dim():
            _refuse(gpu.device, other.device)
    for stranger in strangers:
        if stranger.dim() and stranger.is_cpu:
            _refuse(gpu.device, CPU)


def _refuse(one: torch.device, other: torch.device) -> None:
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{one} and {other}!"
    )


def _target(operator: Operator, gpu: Gpu | None, named: dict[str, Any]) -> Gpu | None:
    """The GPU on which the result is to be; None for the CPU."""
    wanted = named.get("device")
    if named.get("pin_memory"):
        named["pin_memory"] = False
    if wanted is None:
        return gpu or machine().gpu()
    named["device"] = CPU
    if wanted.type == "cuda":
        return gpu if gpu is not None and wanted.index == gpu.index else machine().gpu(wanted)
    if wanted.type != "cpu":
        named["device"] = wanted
        return None
    # "The CPU" may be C++ for "where this tensor is": NOTE [True and pretended].
    if operator.keeps_device:
        return gpu
    in_backward = operator.name != "_to_copy" and torch._C._current_graph_task_id() != -1
    return gpu if in_backward else None


def _choose_generator(gpu: Gpu, values: list[Any], named: dict[str, Any]) -> None:
    """Draw from the GPU's own generator unless the script brings one."""
    has_one = any(isinstance(value, torch._C.Generator) for value in values)
    if named.get("generator") is None and not has_one:
        named["generator"] = gpu.generator


_seed_lock = threading.Lock()


def _with_seed_of(gpu: Gpu, overload: Callable[..., Any], values: Any, named: Any) -> Any:
    """Run an operator that draws from the default generator of the CPU, and can take no other."""
    default = torch.default_generator
    with _seed_lock:
        before = default.get_state()
        default.set_state(gpu.generator.get_state())
        try:
            return overload(*values, **named)
        finally:
            gpu.generator.set_state(default.get_state())
            default.set_state(before)


def _renew(virtual: list[VirtualTensor]) -> None:
    """Tell C++ of new shapes: what it holds is a tensor of its own over the same memory."""
    for tensor in virtual:
        values = tensor._virtual_values
        if (
            tensor.shape != values.shape
            or tensor.stride() != values.stride()
            or torch._C.TensorBase.data_ptr(tensor) != values.data_ptr()
        ):
            tensor._adopt(values)


def _label(
    kind: type[VirtualTensor],
    operator: Operator,
    results: Any,
    args: tuple[Any, ...],
    virtual: list[VirtualTensor],
    gpu: Gpu | None,
) -> Any:
    """Make the results virtual; what was changed in place is the argument itself."""
    if gpu is None and not operator.is_mutable:
        return results
    if isinstance(results, torch.Tensor):
        return _label_one(kind, operator, results, args, virtual, gpu)
    if type(results) is tuple or type(results) is list:
        if operator.name == "_pack_padded_sequence":  # the batch sizes stay on the CPU
            return (_label_one(kind, operator, results[0], args, virtual, gpu), results[1])
        return type(results)(
            _label_one(kind, operator, item, args, virtual, gpu)
            if isinstance(item, torch.Tensor)
            else item
            for item in results
        )
    return results


def _label_one(
    kind: type[VirtualTensor],
    operator: Operator,
    values: torch.Tensor,
    args: tuple[Any, ...],
    virtual: list[VirtualTensor],
    gpu: Gpu | None,
) -> torch.Tensor:
    if operator.returns_input:
        for tensor in virtual:
            if tensor._virtual_values is values:
                return tensor
        if any(argument is values for argument in args):
            return values  # a CPU tensor, changed in place by a virtual one
    if gpu is None:
        return values
    if operator.is_view and virtual:
        return kind.wrap(values, gpu, virtual[0]._allocation)
    return kind.wrap(values, gpu, Allocation(gpu, values.numel() * values.element_size()))
