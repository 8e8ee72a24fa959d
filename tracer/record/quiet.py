"""The ordinary tensor inside any tensor, and operations on it that nobody sees."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

__all__ = ["grad_of", "is_leaf", "is_transformed", "needs_quiet", "plain", "quietly"]


def plain(tensor: torch.Tensor) -> torch.Tensor | None:
    """The ordinary tensor that holds the values, or None where they cannot be read.

    None: under functorch transforms (`torch.func`), fake and meta tensors, subclasses with a
    dispatch of their own whose values lie elsewhere. Measuring must not call into a subclass: that
    of a DTensor would communicate.
    """
    if is_transformed(tensor):
        return None
    if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
        inside = getattr(tensor, "_virtual_values", None)  # on a virtual GPU: tracer.devices
        if inside is None:
            inside = getattr(tensor, "_local_tensor", None)  # DTensor: this rank's part
        if inside is None and tensor.is_nested:
            inside = getattr(tensor, "_values", None)  # jagged: its values, packed
        if inside is not None:
            return plain(inside)
        dispatch = type(tensor).__torch_dispatch__
        if dispatch is not torch.Tensor.__torch_dispatch__ and not _is_disabled(dispatch):
            return None
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(torch.Tensor)
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return None
    return tensor.detach()


def grad_of(leaf: torch.Tensor) -> torch.Tensor | None:
    """Its `.grad`, without the warning that torch has for a leaf that is none any more.

    So is one that did not require a gradient for a while and was written to, and a result whose
    `.grad` the script assigned.
    """
    if is_leaf(leaf) or leaf.retains_grad:
        return leaf.grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return leaf.grad


def is_leaf(tensor: torch.Tensor) -> bool:
    try:
        return tensor.is_leaf
    except RuntimeError:  # a view whose node torch does not tell
        return False


def is_transformed(tensor: torch.Tensor) -> bool:
    """Whether it stands for several values, or none yet: vmap and the other functorch transforms.

    The vmap of `is_grads_batched` is an older one than functorch's, with a wrapper of its own.
    """
    functorch = torch._C._functorch
    return bool(
        functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    )


def _is_disabled(dispatch: Any) -> bool:
    return bool(dispatch is torch._C._disabled_torch_dispatch_impl)


def quietly() -> AbstractContextManager[None]:
    """Nobody sees the tensor operations inside: no grad, autocast, modes or subclasses of the user.

    Next to free where none is active, as in an ordinary backward.
    """
    if not needs_quiet():
        return _NOTHING
    if torch.is_grad_enabled() and not _has_modes():
        return _WithoutGrad()
    return _all_off()


class _WithoutGrad:
    """`torch.no_grad` without its ceremony: this is entered for every event."""

    def __enter__(self) -> None:
        torch._C._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_grad_enabled(True)


_NOTHING: AbstractContextManager[None] = nullcontext()


@contextmanager
def _all_off() -> Iterator[None]:
    with ExitStack() as stack:
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        if torch._C._is_any_autocast_enabled():
            stack.enter_context(torch._C._DisableAutocast())
        if torch._C._len_torch_function_stack():
            stack.enter_context(torch._C.DisableTorchFunction())
        if torch._C._len_torch_dispatch_stack():
            stack.enter_context(torch._C._DisableTorchDispatch())
        if torch._C._functorch.peek_interpreter_stack() is not None:
            stack.enter_context(temporarily_clear_interpreter_stack())
        yield


def needs_quiet() -> bool:
    return torch.is_grad_enabled() or _has_modes()


def _has_modes() -> bool:
    return bool(
        torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
