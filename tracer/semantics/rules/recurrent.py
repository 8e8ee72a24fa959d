"""Recurrent layers and cells in one operator."""

from __future__ import annotations

from tracer.semantics.effects import Contracts, Effect, Elementwise, Moves
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule


@rule("CudnnRnnBackward0", "LstmMpsBackward0", "MiopenRnnBackward0", "MkldnnRnnLayerBackward0")
def layer(node: NodeFacts) -> Effect:
    """A weight is used at every time step of every sequence, and adds all of them up."""
    return Contracts()


@rule("ThnnFusedGruCellBackward0", "ThnnFusedLstmCellBackward0")
def cell(node: NodeFacts) -> tuple[Effect, ...]:
    """The gates of each element of the state; a bias adds up the sequences of the batch."""
    return tuple(
        Elementwise() if is_matrix(node, output) else Contracts()
        for output in range(len(node.sent))
    )


def is_matrix(node: NodeFacts, output: int) -> bool:
    """Whether this is a gradient per sequence, not that of a bias."""
    shape = node.sent[output]
    return shape is not None and len(shape) > 1


@rule("PackPaddedSequenceBackward0")
def packed(node: NodeFacts) -> Effect:
    """Each time step goes back to its sequence; the padding gets 0."""
    return Moves()
