"""The rules, one module a family; importing this package fills the table."""

from tracer.semantics.rules import (
    attention,
    convolution,
    data_parallel,
    engine,
    indexing,
    linear,
    losses,
    normalisation,
    pointwise,
    pooling,
    recurrent,
    reductions,
    scaling,
    shapes,
    unsaid,
)

__all__ = [
    "attention",
    "convolution",
    "data_parallel",
    "engine",
    "indexing",
    "linear",
    "losses",
    "normalisation",
    "pointwise",
    "pooling",
    "recurrent",
    "reductions",
    "scaling",
    "shapes",
    "unsaid",
]
