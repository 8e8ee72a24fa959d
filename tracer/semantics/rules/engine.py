"""Nodes of the engine itself."""

from __future__ import annotations

from tracer.semantics.effects import Effect, Moves
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import opaque, rule


@rule("AccumulateGrad", "BackwardHookFunctionBackward", "GraphRoot", "Identity")
def passed(node: NodeFacts) -> Effect:
    """The gradient passes as it is: into a buffer, or by a place for hooks."""
    return Moves()


@rule("UndefinedGrad", "UndefinedGradBackward")
def undefined(node: NodeFacts) -> Effect:
    """Stands for a gradient that is not there."""
    return Moves(claims="nothing")


opaque("a write into a view: the function that wrote is hidden inside the node", "CopySlices")
opaque("runs the forward pass again and a backward call of its own", "CheckpointFunctionBackward")
opaque("compiled: many operators in one node", "CompiledFunctionBackward")
opaque("raises instead of sending a gradient", "DelayedError", "Error", "NotImplemented")
opaque("sends the gradient to another process", "SendRpcBackward", "RecvRpcBackward")
