"""Convolutions: a weight is used at every position of every item, and so is its gradient."""

from __future__ import annotations

from tracer.events import Shape
from tracer.semantics.effects import Contracts, Effect, Sums
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import arrived, numel

EITHER = """
    ConvolutionBackward0 ConvolutionBackward1 ConvolutionOverrideableBackward0
"""

PLAIN = """
    ConvDepthwise2DBackward0 ConvDepthwise3DBackward0
    MiopenConvolutionBackward0 MiopenDepthwiseConvolutionBackward0
    MkldnnConvolutionBackward0 NnpackSpatialConvolutionBackward0 SlowConv2DBackward0
    SlowConv3DBackward0 SlowConvDilated2DBackward0 SlowConvDilated3DBackward0
    CudnnConvolutionBackward0 MpsConvolutionBackward0
"""

TRANSPOSED = """
    CudnnConvolutionTransposeBackward0 MiopenConvolutionTransposeBackward0
    MpsConvolutionTransposeBackward0 SlowConvTranspose2DBackward0 SlowConvTranspose3DBackward0
"""


def positions(shape: Shape | None) -> int | None:
    """Items times places: all elements but the channels, which are the second dimension."""
    return None if shape is None or len(shape) < 2 else numel((shape[0], *shape[2:]))


@rule(EITHER, PLAIN, TRANSPOSED)
def convolution(node: NodeFacts) -> tuple[Effect, ...]:
    """dW sums over the items and places of the output (of the input, if transposed), as does db."""
    outputs = positions(arrived(node))
    bias: Effect = Contracts() if outputs is None else Sums(over=outputs)
    return (Contracts(), Contracts(over=uses(node)), bias)


def uses(node: NodeFacts) -> int | None:
    """How often an element of the weight was used: once for each item and place."""
    transposed = node.saved.get("transposed", node.name in TRANSPOSED.split())
    if node.name in EITHER.split() and "transposed" not in node.saved:
        return None
    small = node.sent[0] if transposed and node.sent else arrived(node)
    return positions(small)


@rule("ConvTbcBackward0")
def conv_tbc(node: NodeFacts) -> tuple[Effect, ...]:
    """The same for (time, batch, channels): db sums over time and batch."""
    grad = arrived(node)
    rows = None if not grad else numel(grad[:-1])
    bias: Effect = Contracts() if rows is None else Sums(over=rows)
    return (Contracts(), Contracts(over=rows), bias)


@rule(
    "ConvolutionBackwardBackward0",
    "ConvolutionBackwardOverrideableBackward0",
    "MpsConvolutionBackwardBackward0",
    "SlowConv2DBackwardBackward0",
)
def convolution_again(node: NodeFacts) -> Effect:
    """The derivative of the gradient of a convolution is again made of convolutions."""
    return Contracts()
