"""Views, permutations, copies, parts and wholes: the numbers stay, their places change."""

from __future__ import annotations

from tracer.semantics.effects import (
    Contracts,
    Effect,
    Moves,
    Opaque,
    Scales,
    ScatterAdds,
    Sums,
    exact,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import arrived, numbers, per_output, ratio, whole_if

VIEWS = """
    AliasBackward0 ChannelShuffleBackward0 DiagonalBackward0 FlipBackward0 MkldnnReshapeBackward0
    PermuteBackward0 PixelShuffleBackward0 PixelUnshuffleBackward0 ReshapeAliasBackward0
    ReshapeCopyBackward0 RollBackward0 Rot90Backward0 SelectBackward0 SliceBackward0
    NarrowCopyBackward0 SqueezeBackward0 SqueezeBackward1 SqueezeBackward2 SqueezeBackward3
    SqueezeBackward4 SqueezeBackward5 TBackward0 TBackward1 TransposeBackward0
    TransposeBackward1 UnsafeViewBackward0 UnsqueezeBackward0 UnsqueezeBackward1 ViewBackward0
"""

PARTS = """
    ChunkBackward0 SplitBackward0 SplitWithSizesBackward0 UnbindBackward0 UnsafeSplitBackward0
    UnsafeSplitWithSizesBackward0
"""

COPIES = """
    CloneBackward0 CoalesceBackward0 ConjBackward0 ConjPhysicalBackward0 ConjPhysicalBackward1
    LazyCloneBackward0 LiftBackward0 LiftFreshBackward0 PinMemoryBackward0 ToCopyBackward0
    ToMkldnnBackward0
"""

NESTED_VIEWS = """
    ChunkBackwardAutogradNestedTensor0 NestedGetValuesBackward0 NestedTensorFromTensorListBackward0
    NestedViewFromBufferBackward0 NestedViewFromJaggedBackward0 SelectBackwardAutogradNestedTensor0
    SplitWithSizesBackwardAutogradNestedTensor0 SqueezeBackwardAutogradNestedTensor0
    SqueezeBackwardAutogradNestedTensor1 UnbindBackwardAutogradNestedTensor0 ValuesBackward0
    ValuesBackwardAutogradNestedTensor0 ViewBackwardAutogradNestedTensor0
    NestedFromPaddedBackward0 NestedFromPaddedTensorBackward0 NestedTensorFromMaskBackward0
    ToPaddedTensorBackward0
"""


@rule(VIEWS, PARTS, COPIES)
def moved(node: NodeFacts) -> Effect:
    """The adjoint of a view or copy puts each number back; places not seen get 0."""
    return Moves()


@rule(NESTED_VIEWS)
def moved_nested(node: NodeFacts) -> Effect:
    """The same for tensors of ragged shape; padding is cut or filled with 0."""
    return Moves(claims="nothing")


@rule("CatBackward0", "StackBackward0")
def joined(node: NodeFacts) -> Effect:
    """Each of the joined tensors gets its own part back."""
    return Moves(claims="together")


@rule("ExpandBackward0", "RepeatBackward0")
def repeated(node: NodeFacts) -> Effect:
    """Every copy of an element adds to its gradient."""
    times = ratio(arrived(node), node.sent[0] if node.sent else None)
    if times is None:
        return Opaque("an expansion of nothing, or of unknown shape")
    return Moves() if times == 1 else Sums(over=times)


@rule("CopyBackwards")
def copied_into(node: NodeFacts) -> tuple[Effect, ...]:
    """x.copy_(y): what was in x is gone, y gets the gradient."""
    return per_output(node, Scales(by=exact(0)), Moves())


@rule(
    "BlockDiagBackward0",
    "ConstantPadNdBackward0",
    "DiagEmbedBackward0",
    "DiagonalBackwardBackward0",
    "SelectBackwardBackward0",
    "SliceBackwardBackward0",
    "UnfoldBackwardBackward0",
    "Col2ImBackward0",
)
def cut_out(node: NodeFacts) -> Effect:
    """What had been surrounded by a constant gets its own part back, the rest is lost."""
    return Moves(claims="nothing")


@rule("DiagonalScatterBackward0", "SelectScatterBackward0", "SliceScatterBackward0")
def written_over(node: NodeFacts) -> Effect:
    """A part of the first tensor was replaced by the second: each gets the gradient of its part."""
    return Moves(claims="together")


@rule("AsStridedScatterBackward0", "SliceInverseBackward0")
def written_somewhere(node: NodeFacts) -> Effect:
    """The same with strides that may overlap: each operand gets a part."""
    return Moves(claims="nothing")


@rule("AsStridedBackward0", "AsStridedBackward1")
def strided(node: NodeFacts) -> Effect:
    """Every place adds up what the windows on it got."""
    return ScatterAdds(claims="nothing")


@rule("UnfoldBackward0")
def unfolded(node: NodeFacts) -> Effect:
    """Every element adds up what the windows on it got."""
    return ScatterAdds()


@rule("Im2ColBackward0")
def columns(node: NodeFacts) -> Effect:
    """Every pixel adds up what the windows on it got; what went to the padding is lost."""
    padding = numbers(node, "padding")
    return ScatterAdds(claims=whole_if(padding is not None and not any(padding)))


@rule(
    "ReflectionPad1DBackward0",
    "ReflectionPad2DBackward0",
    "ReflectionPad3DBackward0",
    "ReplicationPad1DBackward0",
    "ReplicationPad2DBackward0",
    "ReplicationPad3DBackward0",
)
def padded_by_copies(node: NodeFacts) -> Effect:
    """An element that was copied into the padding adds up its copies."""
    return ScatterAdds()


@rule(
    "ReflectionPad1DBackwardBackward0",
    "ReflectionPad2DBackwardBackward0",
    "ReflectionPad3DBackwardBackward0",
    "ReplicationPad1DBackwardBackward0",
    "ReplicationPad2DBackwardBackward0",
    "ReplicationPad3DBackwardBackward0",
)
def padded_again(node: NodeFacts) -> Effect:
    """The adjoint of the above is the padding itself: elements are copied."""
    return Moves(claims="nothing")


@rule("ComplexBackward0")
def complex_of(node: NodeFacts) -> tuple[Effect, ...]:
    """The real operand gets the real part, the imaginary one the imaginary part."""
    return per_output(node, Moves(), Moves(claims="nothing"))


@rule("ViewAsComplexBackward0", "ViewAsRealBackward0")
def pairs(node: NodeFacts) -> Effect:
    """Pairs of reals are complex numbers and back; their sums are of different kinds."""
    return Moves(claims="nothing")


@rule("FftC2CBackward0", "FftC2RBackward0", "FftR2CBackward0")
def transformed(node: NodeFacts) -> Effect:
    """A Fourier transform multiplies by roots of unity and adds, and so does its adjoint."""
    return Contracts()
