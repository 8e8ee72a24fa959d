"""Counts that rules read off the shapes of a node."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tracer.events import Shape
from tracer.semantics.effects import Claims, Effect, Moves, Sums
from tracer.semantics.facts import NodeFacts

__all__ = [
    "arrived",
    "broadcast",
    "index_of",
    "number",
    "numbers",
    "numel",
    "per_output",
    "ratio",
    "times_broadcast",
    "whole_if",
]

UNSIGNED = 2**64
"""Negative integers that torch saved on a node read back as these minus their size."""


def numel(shape: Shape) -> int:
    """How many elements a tensor of this shape has."""
    return math.prod(shape)


def arrived(node: NodeFacts) -> Shape | None:
    """The shape of the gradient at the first input, where results with a gradient usually are."""
    return node.received[0] if node.received else None


def ratio(many: Shape | None, few: Shape | None) -> int | None:
    """How many elements of one shape belong to each of the other, None if that is not a count."""
    if many is None or few is None or numel(few) == 0 or numel(many) % numel(few):
        return None
    return numel(many) // numel(few)


def times_broadcast(node: NodeFacts, output: int) -> int:
    """How often the forward pass repeated this operand, judged by the shapes: 1 if it did not."""
    left = node.sent[output] if output < len(node.sent) else None
    return ratio(arrived(node), left) or 1


def broadcast(node: NodeFacts, output: int, effect: Effect) -> Effect:
    """The effect, with the sum that follows where this operand had been broadcast."""
    times = times_broadcast(node, output)
    if times == 1:
        return effect
    if type(effect) is Moves:
        return Sums(over=times, claims=effect.claims)
    return replace(effect, then_sums=times)


def per_output(node: NodeFacts, *effects: Effect) -> tuple[Effect, ...]:
    """These effects for the outputs of the node in order, each with the sum after a broadcast."""
    outputs = zip(range(len(node.sent)), effects, strict=False)
    return tuple(broadcast(node, output, effect) for output, effect in outputs)


def number(node: NodeFacts, name: str) -> float | None:
    """A saved real number, None where it is absent or not one."""
    value = node.saved.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def numbers(node: NodeFacts, name: str) -> tuple[int, ...] | None:
    """A saved list of integers, None where it is absent; a single integer is a list of one."""
    value: Any = node.saved.get(name)
    if isinstance(value, int):
        return (index_of(value),)
    if isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value):
        return tuple(index_of(item) for item in value)
    return None


def index_of(value: int) -> int:
    """The index that torch meant: -1 reads back as 2**64 - 1."""
    return value - UNSIGNED if value >= UNSIGNED // 2 else value


def whole_if(condition: bool) -> Claims:
    """The law applies to each output if this holds, else to nothing."""
    return "each" if condition else "nothing"
