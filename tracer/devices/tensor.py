"""The virtual tensor: values on the CPU under the name of a GPU, and its way to other devices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch._tensor_str
import torch._utils
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from tracer.devices.dispatch import run
from tracer.devices.machine import CPU, Allocation, Gpu, is_running, machine
from tracer.devices.storages import mark

__all__ = ["HOME", "LAZY_HOME", "VirtualTensor", "move", "move_as_asked", "send_home", "set_data"]

HOME = "tracer_home"
"""Where a ToCopyBackward0 notes, in its metadata, the device that its gradient goes home to."""

_make_subclass = torch.Tensor._make_subclass
_to = torch.Tensor.to
_set_data = torch._C.TensorBase.data.__set__  # type: ignore[attr-defined]
_get_data = torch._C.TensorBase.data.__get__  # type: ignore[attr-defined]
_to_copy = torch.ops.aten._to_copy.default

LAZY_HOME = "_virtual_home"
"""Where a parameter without a shape yet notes the device that it is to be made on."""

OWN = ("_virtual_values", "_gpu", "_allocation", "_is_param")


class VirtualTensor(torch.Tensor):
    """A tensor on a virtual GPU: NOTE [True and pretended] in `dispatch`.

    `_virtual_values` is the CPU tensor that holds its values; the recorder reads it by that name.
    Scripts that print a type shall see torch's name, so this class answers to it.
    """

    _virtual_values: torch.Tensor
    _gpu: Gpu
    _allocation: Allocation

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(VirtualTensor, func, args, kwargs)

    @staticmethod
    def wrap(values: torch.Tensor, gpu: Gpu, allocation: Allocation | None = None) -> VirtualTensor:
        """Put CPU values, which nobody else may change, on a GPU."""
        tensor: VirtualTensor = _make_subclass(
            VirtualTensor, values, False, device_for_backend_keys=gpu.device
        )
        tensor._virtual_values = values
        tensor._gpu = gpu
        if allocation is None:
            allocation = Allocation(gpu, values.numel() * values.element_size())
        tensor._allocation = allocation
        return tensor

    def _adopt(self, values: torch.Tensor) -> None:
        """Take over other values, or the same ones in a new shape."""
        allocation = self._allocation
        if values is not self._virtual_values:
            allocation = Allocation(self._gpu, values.numel() * values.element_size())
        _set_data(self, VirtualTensor.wrap(values, self._gpu, allocation))
        self._virtual_values, self._allocation = values, allocation

    # Where it is.

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._gpu.device

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return self._gpu.index

    def is_pinned(self, device: Any = None) -> bool:
        return False

    def pin_memory(self, device: Any = None) -> NoReturn:
        raise RuntimeError(
            f"cannot pin 'torch.cuda.{self.dtype}' only dense CPU tensors can be pinned"
        )

    def record_stream(self, stream: Any) -> None:
        """Memory is freed when the last reference goes; no stream runs ahead."""

    # Where it goes. Its own methods, so that it finds its way after the GPUs have ended.

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return move_as_asked(self, *args, **kwargs)

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> torch.Tensor:
        return move(self, CPU, memory_format=memory_format)

    def cuda(
        self,
        device: Any = None,
        non_blocking: bool = False,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> torch.Tensor:
        return move(self, machine().gpu(device).device, memory_format=memory_format)

    # Its values.

    def tolist(self) -> Any:
        return self._virtual_values.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.numpy()

    @property
    def data(self) -> torch.Tensor:
        data: torch.Tensor = _get_data(self)
        return data

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        set_data(self, new)

    # New tensors beside it.

    def new(  # type: ignore[override]
        self, *args: Any, device: Any = None
    ) -> torch.Tensor:
        gpu = self._gpu if device is None else machine().gpu(device)
        values = (a._virtual_values if isinstance(a, VirtualTensor) else a for a in args)
        return VirtualTensor.wrap(self._virtual_values.new(*values).clone(), gpu)

    def new_tensor(  # type: ignore[override]
        self, data: Any, **kwargs: Any
    ) -> torch.Tensor:
        kwargs["dtype"] = kwargs.get("dtype") or self.dtype
        kwargs["device"] = self.device if kwargs.get("device") is None else kwargs["device"]
        return torch.tensor(data, **kwargs)

    # Its memory, its copies, its looks.

    def untyped_storage(self) -> torch.UntypedStorage:
        return mark(self._virtual_values.untyped_storage(), self.device)

    def storage(self) -> Any:
        return self._typed_storage()

    def _typed_storage(self) -> Any:
        return torch.TypedStorage(  # type: ignore[no-untyped-call]
            wrap_storage=self.untyped_storage(), dtype=self.dtype, _internal=True
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment."
            )
        copied = VirtualTensor.wrap(self._virtual_values.clone(), self._gpu)
        copied.__dict__.update(self._state())
        copied.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        memo[id(self)] = copied
        if self.grad is not None:
            copied.grad = self.grad.__deepcopy__(memo)  # type: ignore[no-untyped-call]
        return copied

    def _state(self) -> dict[str, Any]:
        """What the script has hung on it."""
        return {name: value for name, value in self.__dict__.items() if name not in OWN}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As an ordinary tensor on 'cuda:k': plain torch can load it."""
        state = self._state()
        if getattr(self, "_is_param", False):
            data = self.detach()
            if state:
                parts: tuple[Any, ...] = (data, self.requires_grad, OrderedDict(), state)
                return torch._utils._rebuild_parameter_with_state, parts
            return torch._utils._rebuild_parameter, (data, self.requires_grad, OrderedDict())
        values: torch.Tensor = self._virtual_values
        arguments: tuple[Any, ...] = (
            self._typed_storage(), values.storage_offset(), tuple(values.size()), values.stride(),
            self.requires_grad, OrderedDict(),
        )  # fmt: skip
        rebuild = torch._utils._rebuild_tensor_v2
        if state:
            return torch._tensor._rebuild_from_type_v2, (rebuild, torch.Tensor, arguments, state)
        return rebuild, arguments

    def __format__(self, spec: str) -> str:
        if self.dim() == 0:
            return self._virtual_values.item().__format__(spec)
        return object.__format__(self, spec)

    def __repr__(  # type: ignore[override]
        self, *, tensor_contents: Any = None
    ) -> str:
        # Torch writes the name of a subclass, `Tensor`, where it writes `tensor` for its own.
        text: str = torch._tensor_str._str(self, tensor_contents=tensor_contents)  # type: ignore[no-untyped-call]
        if getattr(self, "_is_param", False):
            text = text.removeprefix("Parameter(").removesuffix(")")
            return f"Parameter containing:\nt{text[1:]}"
        return f"t{text[1:]}"


VirtualTensor.__name__ = VirtualTensor.__qualname__ = "Tensor"
VirtualTensor.__module__ = "torch"


def set_data(tensor: torch.Tensor, new: torch.Tensor) -> None:
    """`tensor.data = new`; a change of device swaps what the two Python objects stand for."""
    if isinstance(tensor, VirtualTensor) and isinstance(new, VirtualTensor):
        tensor._gpu = new._gpu
        _set_data(tensor, new)
        tensor._virtual_values, tensor._allocation = new._virtual_values, new._allocation
    elif isinstance(tensor, VirtualTensor) or isinstance(new, VirtualTensor):
        _change_kind(tensor, new)
    else:
        _set_data(tensor, new)


def _change_kind(tensor: torch.Tensor, new: torch.Tensor) -> None:
    """Put a tensor of the other kind in the place of one; its gradient and hooks come along."""
    if isinstance(tensor, UninitializedTensorMixin):
        tensor.__dict__[LAZY_HOME] = new.device  # no values yet: they are made there
        return
    gradient, hooks = tensor.grad, tensor._backward_hooks
    after = getattr(tensor, "_post_accumulate_grad_hooks", None)
    other = new.detach().requires_grad_(tensor.requires_grad)
    if isinstance(tensor, torch.nn.Parameter):
        other = torch.nn.Parameter(other, tensor.requires_grad)
    state = {name: value for name, value in tensor.__dict__.items() if name not in OWN}
    swap(tensor, other)
    tensor.__dict__.update(state)
    if gradient is not None:
        tensor.grad = move(gradient.detach(), tensor.device)
    if hooks is not None:
        tensor._backward_hooks = hooks
    if after is not None:
        tensor._post_accumulate_grad_hooks = after


def swap(one: torch.Tensor, other: torch.Tensor) -> None:
    """Let two Python objects stand for one another's tensors.

    As `torch.utils.swap_tensors`, but weak references and older graphs are no reason to refuse:
    on CUDA, where `.data` is simply replaced, they are none.
    """
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


# NOTE [The way home]
# The node of a copy between devices is torch's own ToCopyBackward0. It would send the gradient to
# where C++ believes that the copied tensor was, the CPU. So `move` notes the true place in the
# metadata of the node, and the kernel under the node's `grad.to(options)` (aten::to.dtype_layout,
# ours for as long as there are virtual GPUs) reads it there.


def move(
    tensor: torch.Tensor,
    device: torch.device | None,
    dtype: torch.dtype | None = None,
    copy: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> torch.Tensor:
    """Copy a tensor to a device, itself if it is there, as a node of autograd."""
    here = tensor._gpu if isinstance(tensor, VirtualTensor) else None
    there = machine().find(device) if device is not None and device.type == "cuda" else None
    if device is None or (there is here and device.type in ("cuda", tensor.device.type)):
        return _to(tensor, dtype or tensor.dtype, copy=copy, memory_format=memory_format)
    if here is None and there is None:
        return _to(tensor, device, dtype, copy=copy, memory_format=memory_format)
    if there is not None and (tensor.layout is not torch.strided or tensor.is_quantized):
        values = tensor._virtual_values if isinstance(tensor, VirtualTensor) else tensor.detach()
        return VirtualTensor.wrap(values.clone(), there)
    if there is not None:
        device = there.device
    home = tensor.device
    moved: torch.Tensor = _to_copy(tensor, dtype=dtype, device=device, memory_format=memory_format)
    if moved.grad_fn is not None:
        moved.grad_fn.metadata[HOME] = home  # type: ignore[index]
    return moved


FORMS: dict[type, Sequence[str]] = {
    torch.Tensor: ("other", "non_blocking", "copy"),
    torch.dtype: ("dtype", "non_blocking", "copy"),
}
"""The names of the arguments of `Tensor.to`, by the type of the first; else a device is first."""


def move_as_asked(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to` in all its forms."""
    names: Sequence[str] = ("device", "dtype", "non_blocking", "copy")
    for kind, form in FORMS.items():
        if args and isinstance(args[0], kind):
            names = form
    wanted = dict(zip(names, args, strict=False)) | kwargs
    other = wanted.get("other")
    device, dtype = wanted.get("device"), wanted.get("dtype")
    if other is not None:
        device, dtype = other.device, other.dtype
    elif device is not None:
        gpu = machine().find(device) if is_running() else None
        device = torch.device(device) if gpu is None else gpu.device
    return move(
        tensor, device, dtype, bool(wanted.get("copy", False)),
        wanted.get("memory_format") or torch.preserve_format,
    )  # fmt: skip


def send_home(
    tensor: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """aten::to.dtype_layout: NOTE [The way home]."""
    if torch._C._current_graph_task_id() != -1:
        node = torch._C._current_autograd_node()
        home = None if node is None else node.metadata.get(HOME)  # type: ignore[attr-defined]
        if home is not None:
            return move(tensor, home, dtype)
    is_virtual = isinstance(tensor, VirtualTensor)
    if is_virtual and (device is None or device.type == "cpu"):
        device = tensor.device  # "where this tensor is", in the words of C++
    stays = (
        not copy
        and (dtype is None or dtype is tensor.dtype)
        and (layout is None or layout is tensor.layout)
        and (device is None or device == tensor.device)
        and (
            memory_format is None
            or memory_format is torch.preserve_format
            or tensor.is_contiguous(memory_format=memory_format)
        )
    )
    if stays:
        return tensor
    if device is not None and device != tensor.device and (is_virtual or device.type == "cuda"):
        return move(tensor, device, dtype, copy, memory_format or torch.preserve_format)
    given: dict[str, Any] = {"dtype": dtype, "layout": layout, "memory_format": memory_format}
    moved: torch.Tensor = _to_copy(
        tensor, device=device, pin_memory=pin_memory, non_blocking=non_blocking, **given
    )
    return moved
