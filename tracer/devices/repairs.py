"""Operators whose C++ makes its result where it believes that its input is: on the CPU.

Found by running torch's own operator samples on virtual tensors (tests/devices/test_operators.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tracer.devices import dispatch
from tracer.devices.factories import Kernels, overload_named
from tracer.devices.tensor import VirtualTensor

__all__ = ["install"]

WITHOUT_GRADIENT = (
    "linalg_matrix_rank", "linalg_matrix_rank.tol_tensor", "linalg_matrix_rank.atol_rtol_tensor",
    "linalg_matrix_rank.atol_rtol_float",
)  # fmt: skip
"""These can be run as a whole: there is no graph to be made inside."""

CPU_ONLY = ("_sparse_mm_reduce_impl",)
"""CUDA has no kernel for these, and that of the CPU asks whether its arguments need a gradient."""


def _whole(overload: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return dispatch.run(VirtualTensor, overload, args, kwargs)

    return kernel


def _refused(name: str) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"Could not run 'aten::{name}' with arguments from the 'SparseCsrCUDA' backend."
        )

    return kernel


def _pad_circular(tensor: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    """Each dimension between its own end and its own beginning."""
    for number in range(len(pad) // 2):
        dim = tensor.dim() - 1 - number
        before, after = pad[2 * number], pad[2 * number + 1]
        size = tensor.size(dim)
        if before > size or after > size:
            raise RuntimeError("Padding value causes wrapping around more than once.")
        start, end = max(0, -before), size - max(0, -after)
        parts = [tensor.narrow(dim, start, end - start)]
        if before > 0:
            parts.insert(0, tensor.narrow(dim, size - before, before))
        if after > 0:
            parts.append(tensor.narrow(dim, 0, after))
        tensor = torch.cat(parts, dim) if len(parts) > 1 else parts[0]
    return tensor


def install(kernels: Kernels) -> None:
    kernels.add(
        "AutogradCUDA",
        {
            "_pad_circular": _pad_circular,
            **{name: _refused(name) for name in CPU_ONLY},
            **{name: _whole(overload_named(name)) for name in WITHOUT_GRADIENT},
        },
    )
