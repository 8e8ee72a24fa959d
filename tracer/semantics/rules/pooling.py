"""Pooling, interpolation and sampling of images."""

from __future__ import annotations

import math

from tracer.semantics.effects import (
    Averages,
    Contracts,
    Distributes,
    Effect,
    Moves,
    Opaque,
    ScatterAdds,
    Selects,
    Sums,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import arrived, number, numbers, ratio, whole_if


@rule("AvgPool2DBackward0", "AvgPool3DBackward0")
def avg_pool(node: NodeFacts) -> Effect:
    """Each element of a window gets 1/(its size); windows that overlap add up."""
    window = numbers(node, "kernel_size")
    if window is None:
        return Opaque("the window of this pooling was not recorded")
    dims = 2 if "2D" in node.name else 3
    size = math.prod(window * dims if len(window) == 1 else window)
    divisor = number(node, "divisor_override")
    if divisor is not None:
        return Averages(over=int(divisor), claims=whole_if(divisor == size and is_inside(node)))
    if is_inside(node):
        return Averages(over=size)
    if node.saved.get("ceil_mode") is False and node.saved.get("count_include_pad") is True:
        return Averages(over=size, claims="nothing")
    return Distributes(claims=whole_if(node.saved.get("count_include_pad") is False))


def is_inside(node: NodeFacts) -> bool:
    """Whether every window lies wholly in the image: no padding, no window cut at the border."""
    padding = numbers(node, "padding")
    return padding is not None and not any(padding) and node.saved.get("ceil_mode") is False


@rule(
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveAvgPool3DBackward0",
    "MkldnnAdaptiveAvgPool2DBackward0",
)
def adaptive_avg_pool(node: NodeFacts) -> Effect:
    """Each element of a window gets 1/(its size); windows differ where sizes do not divide."""
    many, few = node.sent[0] if node.sent else None, arrived(node)
    over = ratio(many, few)
    if many is None or few is None or over is None:
        return Distributes()
    even = all(size % windows == 0 for size, windows in zip(many, few, strict=False) if windows)
    return Averages(over=over) if even else Distributes()


@rule(
    "AdaptiveMaxPool2DBackward0",
    "AdaptiveMaxPool3DBackward0",
    "FractionalMaxPool2DBackward0",
    "FractionalMaxPool3DBackward0",
    "MaxPool2DBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MaxPool3DWithIndicesBackward0",
    "MkldnnMaxPool2DBackward0",
    "MkldnnMaxPool3DBackward0",
)
def max_pool(node: NodeFacts) -> Effect:
    """The gradient of a window goes to its largest element."""
    return Selects()


@rule("MaxUnpool2DBackward0", "MaxUnpool3DBackward0")
def max_unpool(node: NodeFacts) -> Effect:
    """Each element reads the gradient at the place it was put."""
    return Moves(claims="nothing")


@rule(
    "UpsampleNearest1DBackward0",
    "UpsampleNearest2DBackward0",
    "UpsampleNearest3DBackward0",
    "UpsampleNearestExact1DBackward0",
    "UpsampleNearestExact2DBackward0",
    "UpsampleNearestExact3DBackward0",
)
def nearest(node: NodeFacts) -> Effect:
    """An element adds up its copies, equally many for each if the sizes divide."""
    few, many = node.sent[0] if node.sent else None, arrived(node)
    if few is None or many is None or not copies_evenly(node):
        return ScatterAdds()
    over = ratio(many, few) or 1
    return Sums(over=over) if over > 1 else Moves()


def copies_evenly(node: NodeFacts) -> bool:
    """Whether every size is a multiple, and a stated scale is that multiple."""
    few, many = node.sent[0] or (), arrived(node) or ()
    names = ("scales",) if len(few) == 3 else ("scales_d", "scales_h", "scales_w")[5 - len(few) :]
    sizes = zip(few[2:], many[2:], strict=False)
    return all(
        small and big % small == 0 and node.saved.get(name, "unknown") in (None, big / small)
        for name, (small, big) in zip(names, sizes, strict=False)
    )


@rule(
    "UpsampleBicubic2DAaBackward0",
    "UpsampleBicubic2DBackward0",
    "UpsampleBilinear2DAaBackward0",
    "UpsampleBilinear2DBackward0",
    "UpsampleLanczos2DAaBackward0",
    "UpsampleLinear1DBackward0",
    "UpsampleTrilinear3DBackward0",
)
def interpolated(node: NodeFacts) -> Effect:
    """Each result is a weighted mean of its neighbours, and gives its gradient back by weight."""
    return Distributes()


@rule(
    "AffineGridGeneratorBackward0",
    "CudnnAffineGridGeneratorBackward0",
    "CudnnGridSamplerBackward0",
    "GridSampler2DBackward0",
    "GridSampler2DCpuFallbackBackward0",
    "GridSampler3DBackward0",
)
def sampled(node: NodeFacts) -> Effect:
    """Every pixel (or coordinate) adds up the samples it went into, by weight."""
    return Contracts()


SECOND_DERIVATIVES = """
    AdaptiveAvgPool2DBackwardBackward0 AdaptiveAvgPool3DBackwardBackward0
    AvgPool2DBackwardBackward0 AvgPool3DBackwardBackward0 CudnnGridSamplerBackwardBackward0
    GridSampler2DBackwardBackward0 GridSampler2DCpuFallbackBackwardBackward0
    GridSampler3DBackwardBackward0 UpsampleBicubic2DAaBackwardBackward0
    UpsampleBicubic2DBackwardBackward0 UpsampleBilinear2DAaBackwardBackward0
    UpsampleBilinear2DBackwardBackward0 UpsampleLanczos2DAaBackwardBackward0
    UpsampleLinear1DBackwardBackward0
    UpsampleNearest1DBackwardBackward0 UpsampleNearest2DBackwardBackward0
    UpsampleNearest3DBackwardBackward0 UpsampleNearestExact1DBackwardBackward0
    UpsampleNearestExact2DBackwardBackward0 UpsampleNearestExact3DBackwardBackward0
    UpsampleTrilinear3DBackwardBackward0
"""


@rule(SECOND_DERIVATIVES)
def pooled_again(node: NodeFacts) -> Effect:
    """The adjoint of spreading by weights is the weighted sum itself."""
    return Contracts()


@rule(
    "AdaptiveMaxPool2DBackwardBackward0",
    "AdaptiveMaxPool3DBackwardBackward0",
    "FractionalMaxPool2DBackwardBackward0",
    "FractionalMaxPool3DBackwardBackward0",
    "MaxPool2DWithIndicesBackwardBackward0",
    "MaxPool3DWithIndicesBackwardBackward0",
)
def max_pooled_again(node: NodeFacts) -> Effect:
    """The adjoint of going to the largest is reading there."""
    return Moves(claims="nothing")
