"""Normalisations: what is normalised together is coupled; weight and bias add up their uses."""

from __future__ import annotations

from dataclasses import replace

from tracer.semantics.effects import (
    Contracts,
    Effect,
    Elementwise,
    Moves,
    Normalises,
    Opaque,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import per_output, whole_if


def normalised(node: NodeFacts, input_: Effect) -> tuple[Effect, ...]:
    """y = w z + b: the input as told, dw = sum dy z, db = sum dy, over the uses of each.

    The laws are those of y alone: lost if the statistics, results too, received a gradient.
    """
    alone = all(shape is None for shape in node.received[1:])
    law = input_.claims if alone else "nothing"
    bias = Moves(claims=whole_if(alone))
    return per_output(node, replace(input_, claims=law), Elementwise(), bias)


@rule(
    "CudnnBatchNormBackward0",
    "MiopenBatchNormBackward0",
    "NativeBatchNormBackward0",
    "NativeBatchNormLegitBackward0",
    "NativeBatchNormLegitBackward1",
)
def batch_norm(node: NodeFacts) -> tuple[Effect, ...]:
    """z = (x - mean x) / std x over items and places in training, a fixed scale in evaluation."""
    by_mode: dict[object, Effect] = {True: Normalises(), False: Elementwise()}
    unknown = Opaque("whether the batch norm was training was not recorded")
    return normalised(node, by_mode.get(node.saved.get("training"), unknown))


@rule("BatchNormWithUpdateBackward0")
def batch_norm_training(node: NodeFacts) -> tuple[Effect, ...]:
    """z = (x - mean x) / std x over items and places."""
    return normalised(node, Normalises())


@rule("BatchNormNoUpdateBackward0", "NativeBatchNormLegitNoTrainingBackward0")
def batch_norm_evaluating(node: NodeFacts) -> tuple[Effect, ...]:
    """z = (x - running mean) / running std: a fixed scale for each channel."""
    return normalised(node, Elementwise())


@rule("NativeGroupNormBackward0", "NativeLayerNormBackward0")
def layer_norm(node: NodeFacts) -> tuple[Effect, ...]:
    """z = (x - mean x) / std x within an item (a group of its channels)."""
    return normalised(node, Normalises())


@rule("FusedRmsNormBackward0")
def rms_norm(node: NodeFacts) -> tuple[Effect, ...]:
    """z = x / rms x within an item: coupled, but not centred."""
    return normalised(node, Normalises(claims="nothing"))


@rule("SyncBatchNormBackward")
def sync_batch_norm(node: NodeFacts) -> tuple[Effect, ...]:
    """As batch norm, but the statistics are those of all ranks: no law for one of them."""
    return normalised(node, Normalises(claims="nothing"))


@rule(
    "LogSoftmaxBackward0",
    "MaskedSoftmaxBackward0",
    "SafeSoftmaxBackward0",
    "SoftmaxBackward0",
)
def softmax(node: NodeFacts) -> Effect:
    """The outputs add up to 1 whatever the inputs, so the gradient of the inputs adds up to 0."""
    return Normalises()


@rule("RenormBackward0", "WeightNormInterfaceBackward0")
def rescaled(node: NodeFacts) -> Effect:
    """v g / |v|: the elements of one norm are coupled."""
    return Normalises(claims="nothing")


@rule(
    "BatchNormBackwardBackward0",
    "CudnnBatchNormBackwardBackward0",
    "LogSoftmaxBackwardDataBackward0",
    "MiopenBatchNormBackwardBackward0",
    "NativeBatchNormBackwardBackward0",
    "NativeLayerNormBackwardBackward0",
    "SoftmaxBackwardDataBackward0",
)
def normalised_again(node: NodeFacts) -> Effect:
    """The derivative of the gradient of a normalisation couples the same items."""
    return Contracts()
