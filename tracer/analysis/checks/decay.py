"""What an optimizer adds to the gradient by itself: weight decay, where it is not decoupled."""

from __future__ import annotations

from tracer.analysis.notes import Optimizer

__all__ = ["added_decay"]

DECOUPLED = ("AdamW", "Lion", "Muon", "SGDW")


def added_decay(optimizer: Optimizer) -> float:
    """The weight decay that is added to the gradient, 0 without one."""
    decay = optimizer.options.get("weight_decay")
    is_apart = optimizer.kind in DECOUPLED or optimizer.options.get("decoupled_weight_decay")
    return 0.0 if is_apart or not isinstance(decay, float | int) else float(decay)
