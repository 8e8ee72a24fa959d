"""What an operation leaves of its operands where it spread them over a larger shape (broadcasting).

A node knows the shapes of the gradients it sends, so only those of operands that need one. The
other operand of a product or a fused loss is saved. That of a difference is not, but what is made
of the difference may save it whole: whether both operands were spread, each along a dimension of
its own, is then to be seen in its values.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = [
    "DIFFERENCES",
    "PRODUCTS",
    "SPREAD",
    "grid_error",
    "may_be_grid",
    "may_meet_grid",
    "pairs_error",
    "sizes_of",
    "spread_of",
]

PRODUCTS = frozenset({"MulBackward0", "DivBackward0"})
"""Save their operands, as `self` and `other`."""

SPREAD = frozenset({"MseLossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0"})
"""Save their target as it was spread."""

DIFFERENCES = frozenset(
    {
        "PowBackward0", "AbsBackward0", "MulBackward0", "LinalgVectorNormBackward0",
        "CoshBackward0", "ClampBackward1", "ClampMinBackward0", "ClampMaxBackward0",
        "SoftplusBackward0", "LogSigmoidBackward0", "EluBackward0",
    }
)  # fmt: skip
"""Save, as `self`, what may be a difference."""

SUBTRACTIONS = ("SubBackward", "AddBackward", "RsubBackward")
MOST_ADDED = 3
CORNER = 32
"""Rows and columns that are looked at; by chance not even two rows and columns look like this."""


def sizes_of(node: Any, tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The shape of a saved operand, if it is not that of the result."""
    shape = _sizes(tensor.shape)
    return None if shape == _result(node) else shape


def spread_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions along which a saved operand was spread."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(d for d, (size, stride) in enumerate(strides) if stride == 0 and size != 1)


def may_be_grid(node: Any) -> bool:
    """Whether this is a function of a square sum or difference of which an operand was spread."""
    below = node.next_functions[0][0]
    if below is None or not below.name().startswith(SUBTRACTIONS):
        return False
    shape = _result(node)
    if shape is None or len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    for _ in range(MOST_ADDED):
        if below is None or not below.name().startswith(SUBTRACTIONS):
            return False
        edges = [edge for edge in below.next_functions if edge[0] is not None]
        if any(_metadata(*edge) not in (shape, None) for edge in edges):
            return True
        below = edges[0][0] if len(edges) == 1 else None  # a number was added: an epsilon
    return False


def may_meet_grid(node: Any, tensor: torch.Tensor) -> bool:
    """Whether a saved operand of a product is a square matrix, and the other one a vector."""
    shape = _result(node)
    if shape is None or len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    below = [edge for edge in node.next_functions if edge[0] is not None]
    if len(below) != 1 or _sizes(tensor.shape) != shape:
        return False
    return _metadata(*below[0]) in (shape[:1], (shape[0], 1))


def grid_error(matrix: torch.Tensor) -> float | torch.Tensor | None:
    """How far a matrix D is from D[i, j] = a[i] + b[j], relative to its largest element."""
    if matrix.dim() != 2 or not matrix.is_floating_point():
        return None
    corner = matrix[:CORNER, :CORNER].double()
    off = corner - corner[:1] - corner[:, :1] + corner[0, 0]
    error = off.abs().max() / corner.abs().max()
    return float(error) if error.is_cpu else error


def _result(node: Any) -> tuple[int, ...] | None:
    return _metadata(node, 0)


def _metadata(node: Any, place: int) -> tuple[int, ...] | None:
    """The shape of an output of the forward operation, which the node receives the gradient of."""
    inputs = node._input_metadata
    return _sizes(inputs[place].shape) if place < len(inputs) else None


def _sizes(shape: Any) -> tuple[int, ...] | None:
    for size in shape:
        if type(size) is not int:
            return None
    return tuple(shape)


def pairs_error(matrix: torch.Tensor) -> float | torch.Tensor | None:
    """The same of an operand, None where it is the same along a dimension: a mask, one vector."""
    if matrix.dim() != 2 or not matrix.is_cpu:
        return None
    row, column = matrix[0, :CORNER], matrix[:CORNER, 0]
    is_spread = bool((row != row[0]).any()) and bool((column != column[0]).any())
    return grid_error(matrix) if is_spread else None
