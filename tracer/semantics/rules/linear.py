"""Products of matrices: every gradient is itself a product, summed over the other dimension."""

from __future__ import annotations

from tracer.events import Shape
from tracer.semantics.effects import Contracts, Effect, Elementwise, Sums
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.rules.scaling import times
from tracer.semantics.sizes import arrived, broadcast, numel


def size(shape: Shape | None, dim: int) -> int | None:
    """The length of a dimension, None where it is not known."""
    if shape is None or not -len(shape) <= dim < len(shape):
        return None
    return shape[dim]


def contracts(shape: Shape | None, dim: int) -> Effect:
    """A sum over one dimension of the gradient that arrived."""
    return Contracts(over=size(shape, dim))


def rows_of(shape: Shape | None) -> int | None:
    """How many rows a matrix product over the last dimension has, all batch dimensions told."""
    return None if not shape else numel(shape[:-1])


@rule("MmBackward0", "BmmBackward0", "GroupedMmBackward0")
def mm(node: NodeFacts) -> tuple[Effect, ...]:
    """C = A B: dA = dC B^T sums over the columns of C, dB = A^T dC over its rows."""
    grad = arrived(node)
    return (contracts(grad, -1), contracts(grad, -2))


@rule("AddmmBackward0", "BaddbmmBackward0")
def addmm(node: NodeFacts) -> tuple[Effect, ...]:
    """beta S + alpha A B: S as in a scaled sum (a bias row adds up all rows), A and B as in mm."""
    grad = arrived(node)
    added = broadcast(node, 0, times(node, "beta"))
    return (added, contracts(grad, -1), contracts(grad, -2))


@rule("AddbmmBackward0")
def addbmm(node: NodeFacts) -> tuple[Effect, ...]:
    """beta S + alpha sum_b A_b B_b: each batch has the same gradient, and contracts as in mm."""
    return addmm(node)


@rule("AddmvBackward0")
def addmv(node: NodeFacts) -> tuple[Effect, ...]:
    """beta s + alpha A x: dA is an outer product, dx = A^T ds sums over the rows."""
    added = broadcast(node, 0, times(node, "beta"))
    return (added, Elementwise(), contracts(arrived(node), 0))


@rule("AddrBackward0")
def addr(node: NodeFacts) -> tuple[Effect, ...]:
    """beta S + alpha u v^T: du sums over the columns, dv over the rows."""
    grad = arrived(node)
    added = broadcast(node, 0, times(node, "beta"))
    return (added, contracts(grad, 1), contracts(grad, 0))


@rule("MvBackward0")
def mv(node: NodeFacts) -> tuple[Effect, ...]:
    """A x: dA is an outer product, dx = A^T dy sums over the rows."""
    return (Elementwise(), contracts(arrived(node), 0))


@rule("DotBackward0", "VdotBackward0")
def dot(node: NodeFacts) -> Effect:
    """d (a . b) is b da + a db, element by element."""
    return Elementwise()


@rule("LinearBackward0", "MkldnnLinearBackward0")
def linear(node: NodeFacts) -> tuple[Effect, ...]:
    """x W^T + b: dx sums over the features of the output, dW and db over all rows of x."""
    grad = arrived(node)
    rows = rows_of(grad)
    bias: Effect = Contracts() if rows is None else Sums(over=rows)
    return (contracts(grad, -1), Contracts(over=rows), bias)


@rule("MatmulBackward0", "TrilinearBackward0", "ForeachMmBackward0")
def products(node: NodeFacts) -> Effect:
    """A product of tensors whose contracted dimensions are not told by the shapes alone."""
    return Contracts()


@rule("LinearBackwardBackward0")
def linear_again(node: NodeFacts) -> Effect:
    """The derivative of the gradient of a linear layer is again made of products."""
    return Contracts()
