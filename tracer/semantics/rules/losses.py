"""Losses that torch computes and reduces in one operator."""

from __future__ import annotations

from typing import cast

from tracer.events import Shape
from tracer.semantics.effects import (
    Effect,
    Elementwise,
    LossReduction,
    Opaque,
    Reduction,
    exact,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import number, numel

REDUCTIONS: dict[object, Reduction] = {0: "none", 1: "mean", 2: "sum"}
"""`at::Reduction` as torch saves it."""


def reduction_of(node: NodeFacts) -> Reduction | None:
    """How the loss was reduced, None where it was not recorded."""
    saved = node.saved.get("reduction")
    if saved in REDUCTIONS.values():
        return cast(Reduction, saved)
    return REDUCTIONS.get(saved)


def first(node: NodeFacts) -> Shape | None:
    """The shape of the first gradient that was sent: that of the operands."""
    return next((shape for shape in node.sent if shape is not None), None)


def reduced(reduction: Reduction | None, items: int | None) -> Effect:
    """A plain reduction over so many items."""
    if reduction is None:
        return Opaque("the reduction of this loss was not recorded")
    return LossReduction(reduction, over=1 if reduction == "none" else items, items=items)


@rule(
    "BinaryCrossEntropyBackward0",
    "BinaryCrossEntropyWithLogitsBackward0",
    "HuberLossBackward0",
    "MseLossBackward0",
    "SmoothL1LossBackward0",
    "SoftMarginLossBackward0",
)
def elementwise_loss(node: NodeFacts) -> Effect:
    """d mean(l(x, y)) / dx_i is l'(x_i, y_i) over the number of elements."""
    shape = first(node)
    return reduced(reduction_of(node), None if shape is None else numel(shape))


@rule("MultiMarginLossBackward0", "MultilabelMarginLossBackward0")
def margin_loss(node: NodeFacts) -> Effect:
    """The items are the rows: one loss for all classes of a row (divided by their number)."""
    shape = first(node)
    return reduced(reduction_of(node), None if shape is None else numel(shape[:-1]))


@rule("NllLossBackward0", "NllLoss2DBackward0")
def nll_loss(node: NodeFacts) -> Effect:
    """d / dx[i, y_i] of sum(-w[y_i] x[i, y_i]) / sum(w[y_i]); ignored targets have weight 0."""
    reduction, shape = reduction_of(node), first(node)
    items = None if shape is None else numel(shape) // max(classes(shape), 1)
    if reduction != "mean":
        return reduced(reduction, items)
    total = number(node, "total_weight")
    if total is None:
        return LossReduction("mean", over=None, items=items)
    kind: Reduction = "mean" if counts_items(node, total, items) else "weighted-mean"
    return LossReduction(kind, over=exact(total), items=items)


def classes(shape: Shape) -> int:
    """The classes are the second dimension, the first of an item without a batch."""
    return shape[1] if len(shape) > 1 else shape[0] if shape else 1


def counts_items(node: NodeFacts, total: float, items: int | None) -> bool:
    """Whether the total weight is a count of targets: no weights given, or one for each item."""
    if "weight" in node.saved:
        return node.saved["weight"] is None
    return total == items


@rule(
    "CtcLossBackward0",
    "CtcLossBackward1",
    "CudnnCtcLossBackward0",
    "CudnnCtcLossBackward1",
    "MiopenCtcLossBackward0",
    "MiopenCtcLossBackward1",
)
def ctc_loss(node: NodeFacts) -> Effect:
    """One loss for each sequence; the reduction over sequences is left to other nodes."""
    grad = node.received[0] if node.received else None
    return LossReduction("none", over=1, items=None if grad is None else numel(grad))


@rule(
    "HuberLossBackwardBackward0",
    "MseLossBackwardBackward0",
    "NllLoss2DBackwardBackward0",
    "NllLossBackwardBackward0",
    "SmoothL1LossBackwardBackward0",
    "SoftMarginLossBackwardBackward0",
)
def loss_again(node: NodeFacts) -> Effect:
    """The derivative of the gradient of a loss, element by element."""
    return Elementwise()
