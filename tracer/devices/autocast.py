"""Autocast for 'cuda': the policies of aten/src/ATen/autocast_mode.h, in Python.

The policies of C++ cast a tensor if `is_cuda` says so, and C++ reads that of a virtual tensor as
no. So the same operators get the same policies here, for virtual tensors.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.amp.autocast_mode

from tracer.devices.attributes import Attributes
from tracer.devices.factories import Kernels, overload_named
from tracer.devices.tensor import VirtualTensor

__all__ = ["POLICIES", "install"]

Policy = Callable[[Any, "Casts", tuple[Any, ...], dict[str, Any]], Any]

LOWER_PRECISION = (
    "_convolution", "_convolution.deprecated", "conv1d", "conv2d", "conv3d", "conv_tbc",
    "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "convolution",
    "cudnn_convolution", "cudnn_convolution_transpose", "prelu", "addmm", "addmv", "addr", "matmul",
    "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul",
    "linalg_multi_dot", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell",
    "rnn_tanh_cell", "rnn_relu_cell", "_scaled_dot_product_flash_attention",
    "scaled_dot_product_attention", "_cudnn_rnn",
)  # fmt: skip

FLOAT32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal",
    "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus",
    "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "frobenius_norm.dim",
    "nuclear_norm", "nuclear_norm.dim", "cosine_similarity", "poisson_nll_loss",
    "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss",
    "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss",
    "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss",
    "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp",
    "norm.Scalar", "norm.ScalarOpt_dim", "upsample_nearest1d", "_upsample_nearest_exact1d",
    "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
)  # fmt: skip

FLOAT32_RESULT = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum",
    "linalg_vector_norm", "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum",
    "sum.dim_IntList",
)  # fmt: skip

WIDEST = (
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put",
    "tensordot", "scatter_add",
)  # fmt: skip

REFUSED = ("binary_cross_entropy",)

_without_autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
_clear_cache = torch.clear_autocast_cache


class Casts:
    """Casts, of which those of parameters are kept until autocast ends, as C++ keeps them."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._lock = threading.Lock()

    def to(self, dtype: torch.dtype, thing: Any) -> Any:
        """The same in a dtype, where it is or holds virtual tensors that autocast may cast."""
        if isinstance(thing, list | tuple):
            return type(thing)(self.to(dtype, item) for item in thing)
        if not _is_eligible(thing) or thing.dtype is dtype:
            return thing
        if not self._is_worth_keeping(thing, dtype):
            return thing.to(dtype)
        with self._lock:
            if id(thing) not in self._kept:
                self._kept[id(thing)] = (thing, thing.to(dtype))
            return self._kept[id(thing)][1]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
        _clear_cache()

    @staticmethod
    def _is_worth_keeping(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
        return (
            dtype is torch.get_autocast_dtype("cuda")
            and tensor.dtype is torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and torch.is_autocast_cache_enabled()
        )


def _is_eligible(thing: Any) -> bool:
    return (
        type(thing) is VirtualTensor
        and thing.is_floating_point()
        and thing.dtype is not torch.float64
    )


def _cast_all(
    overload: Any, casts: Casts, dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return overload(
        *(casts.to(dtype, argument) for argument in args),
        **{name: casts.to(dtype, argument) for name, argument in kwargs.items()},
    )


def lower(overload: Any, casts: Casts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs in the lower precision."""
    return _cast_all(overload, casts, torch.get_autocast_dtype("cuda"), args, kwargs)


def float32(overload: Any, casts: Casts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs in float32."""
    return _cast_all(overload, casts, torch.float32, args, kwargs)


def float32_result(
    overload: Any, casts: Casts, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs as it is, with a result in float32 unless another dtype is asked for."""
    asked = kwargs.get("dtype") or any(isinstance(argument, torch.dtype) for argument in args)
    if not asked and _is_eligible(args[0]):
        kwargs = {**kwargs, "dtype": torch.float32}
    return overload(*args, **kwargs)


def widest(overload: Any, casts: Casts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs in float32 if one of its inputs is that, else in the lower precision."""
    dtypes = {tensor.dtype for tensor in _eligible([*args, *kwargs.values()])}
    lowest = torch.get_autocast_dtype("cuda")
    dtype = torch.float32 if torch.float32 in dtypes else lowest
    return _cast_all(overload, casts, dtype, args, kwargs)


def _eligible(things: Any) -> Iterator[torch.Tensor]:
    for thing in things:
        if isinstance(thing, list | tuple):
            yield from _eligible(thing)
        elif _is_eligible(thing):
            yield thing


def refused(overload: Any, casts: Casts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Too easily inf in float16: CUDA refuses it."""
    raise RuntimeError(
        "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.\n"
        "Many models use a sigmoid layer right before the binary cross entropy layer.\n"
        "In this case, combine the two layers using "
        "torch.nn.functional.binary_cross_entropy_with_logits\n"
        "or torch.nn.BCEWithLogitsLoss. binary_cross_entropy_with_logits and BCEWithLogits are\n"
        "safe to autocast."
    )


POLICIES: dict[str, Policy] = {
    **dict.fromkeys(LOWER_PRECISION, lower),
    **dict.fromkeys(FLOAT32, float32),
    **dict.fromkeys(FLOAT32_RESULT, float32_result),
    **dict.fromkeys(WIDEST, widest),
    **dict.fromkeys(REFUSED, refused),
}


def _kernel(name: str, policy: Policy, casts: Casts) -> Callable[..., Any]:
    overload = overload_named(name)

    @functools.wraps(policy)
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_without_autocast):
            return policy(overload, casts, args, kwargs)

    return kernel


def install(attributes: Attributes, kernels: Kernels) -> None:
    casts = Casts()
    known = {
        name: _kernel(name, policy, casts)
        for name, policy in POLICIES.items()
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA")
    }
    kernels.add("AutocastCUDA", known)
    attributes.put(torch, "clear_autocast_cache", casts.clear)
