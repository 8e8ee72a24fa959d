"""Copies between devices and ranks, by torch's own Python functions.

The names are those of their backward nodes. A user's function of the same short name is not meant:
the registry sees that by its qualified name.
"""

from __future__ import annotations

from itertools import cycle

from tracer.semantics.effects import Effect, Gathers, Moves, Reduces, Replicates, Scatters
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import custom, rule


def _functional(*names: str) -> list[str]:
    """What torch calls the nodes of functional collectives, of either namespace."""
    home = "torch._library.autograd.GeneratedBackwardFor_"
    spaces = ("_c10d_functional", "_c10d_functional_autograd")
    return [f"{home}{space}_{name}_default" for space in spaces for name in names]


@rule("BroadcastBackward")
def broadcast(node: NodeFacts) -> Effect:
    """The forward pass copied each parameter to each replica; their gradients are added."""
    return Reduces(over=replicas(node), claims="together")


def replicas(node: NodeFacts) -> int | None:
    """How many copies there are: the shapes received are those sent, repeated for each replica."""
    copies, rest = divmod(len(node.received), len(node.sent) or 1)
    pairs = zip(node.received, cycle(node.sent), strict=False)
    alike = all(got == sent for got, sent in pairs if got is not None and sent is not None)
    return copies if copies and alike and not rest else None


@rule("ReduceAddCoalescedBackward")
def reduce_add(node: NodeFacts) -> Effect:
    """The forward pass added tensors of several devices; each of them gets the gradient."""
    arriving = sum(shape is not None for shape in node.received) or 1
    return Replicates(over=len(node.sent) // arriving or None)


@rule("ScatterBackward")
def scatter(node: NodeFacts) -> Effect:
    """The forward pass cut a batch in chunks; their gradients are put together again."""
    return Gathers()


@rule("GatherBackward")
def gather(node: NodeFacts) -> Effect:
    """The forward pass put the chunks together; each replica gets the gradient of its own."""
    return Scatters(claims="together")


@rule(
    "_AllReduceBackward",
    "_AllGatherBackward",
    "_AllGatherBaseBackward",
    "_BroadcastBackward",
)
@custom(*_functional("all_reduce", "all_gather_into_tensor", "all_reduce_coalesced"))
@custom(*_functional("all_gather_into_tensor_coalesced", "broadcast"))
def collective(node: NodeFacts) -> Effect:
    """What every rank got in the forward: the gradients of all ranks are added."""
    return Reduces(across="ranks", claims="nothing")


@rule(
    "_AlltoAllBackward",
    "_AlltoAllSingleBackward",
    "_GatherBackward",
    "_ReduceBackward",
    "_Reduce_ScatterBackward",
    "_ScatterBackward",
)
@custom(*_functional("reduce_scatter_tensor", "reduce_scatter_tensor_coalesced"))
@custom(*_functional("all_to_all_single"))
def exchanged(node: NodeFacts) -> Effect:
    """Each rank gets the gradient of its own part from the ranks it was sent to."""
    return Moves(claims="nothing")


@custom(*_functional("_wrap_tensor_autograd", "wait_tensor"))
def waited_for(node: NodeFacts) -> Effect:
    """Functional collectives are waited for: the gradient passes."""
    return Moves()


@rule("_DDPSinkBackward", "RegisterPostBackwardFunctionBackward")
def passed_on(node: NodeFacts) -> Effect:
    """A place to hang a callback on: the gradient passes."""
    return Moves()
