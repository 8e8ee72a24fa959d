"""Means, sums, and other operators that make few numbers of many."""

from __future__ import annotations

from tracer.semantics.effects import (
    Averages,
    Broadcasts,
    Contracts,
    Distributes,
    Effect,
    Elementwise,
    Opaque,
    Selects,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import arrived, numbers, ratio

UNKNOWN = Opaque("a reduction of nothing, or of unknown shape")


def reduced(node: NodeFacts) -> int | None:
    """How many elements became one."""
    shape = node.sent[0] if node.sent else None
    return ratio(shape or numbers(node, "self_sym_sizes"), arrived(node))


@rule("MeanBackward0", "MeanBackward1")
def mean(node: NodeFacts) -> Effect:
    """d mean(x) / dx is one over the elements averaged, the same for each of them."""
    over = reduced(node)
    return UNKNOWN if over is None else Averages(over=over)


@rule("SumBackward0", "SumBackward1")
def sum_(node: NodeFacts) -> Effect:
    """d sum(x) / dx is 1 for each element."""
    over = reduced(node)
    return UNKNOWN if over is None else Broadcasts(over=over)


@rule("NansumBackward0")
def nansum(node: NodeFacts) -> Effect:
    """d nansum(x) / dx is 1 for each element that is a number, 0 for a NaN."""
    over = reduced(node)
    return UNKNOWN if over is None else Broadcasts(over=over, claims="nothing")


@rule("TraceBackward0")
def trace(node: NodeFacts) -> Effect:
    """d trace(A) / dA is 1 on the diagonal."""
    shape = node.sent[0] if node.sent else None
    return UNKNOWN if not shape else Broadcasts(over=min(shape))


@rule(
    "AmaxBackward0",
    "AminBackward0",
    "AminmaxBackward0",
    "LogsumexpBackward0",
    "MaxBackward1",
    "MedianBackward0",
    "MinBackward1",
    "NanmedianBackward0",
)
def shared_out(node: NodeFacts) -> Effect:
    """The gradient is divided among the extreme elements (equally), or by softmax weights."""
    return Distributes()


@rule(
    "CummaxBackward0",
    "CumminBackward0",
    "KthvalueBackward0",
    "MaxBackward0",
    "MedianBackward1",
    "MinBackward0",
    "ModeBackward0",
    "NanmedianBackward1",
    "SortBackward0",
    "SortBackward1",
    "TopkBackward0",
)
def selected(node: NodeFacts) -> Effect:
    """d x[i*] / dx is 1 at the element i* that was chosen, 0 elsewhere."""
    return Selects()


@rule(
    "DistBackward0",
    "ForeachNormBackward0",
    "LinalgVectorNormBackward0",
    "NormBackward0",
    "NormBackward1",
    "NormBackward2",
    "NormBackward3",
    "ProdBackward0",
    "ProdBackward1",
    "StdBackward0",
    "StdMeanBackward0",
    "VarBackward0",
    "VarMeanBackward0",
)
def statistic(node: NodeFacts) -> Effect:
    """d f(x) / dx_i of a norm, product or variance depends on the element."""
    return Elementwise()


@rule(
    "CdistBackward0",
    "CumprodBackward0",
    "CumsumBackward0",
    "EuclideanDistBackward0",
    "LogcumsumexpBackward0",
    "PdistBackward0",
)
def accumulated(node: NodeFacts) -> Effect:
    """Element i went into many results: its gradient is a weighted sum of theirs."""
    return Contracts()
