"""What a rule may look at: one autograd node as it ran, in plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tracer.events import Shape

__all__ = ["NodeFacts"]


@dataclass(frozen=True)
class NodeFacts:
    """One node of one backward call.

    `received` has the shape of the gradient at each input of the node, `sent` that of what it sent
    along each of its outputs (in the order of `next_functions`); None where there was none.
    `saved` has the plain attributes that torch saved on the node, without `_saved_`: "dim",
    "keepdim", "reduction", "self_sym_sizes", "alpha", and saved tensors of one element as numbers
    ("total_weight", "other"). `custom` is the qualified name of a Python `autograd.Function`.
    """

    name: str
    received: tuple[Shape | None, ...] = ()
    sent: tuple[Shape | None, ...] = ()
    saved: dict[str, Any] = field(default_factory=dict)
    custom: str = ""
