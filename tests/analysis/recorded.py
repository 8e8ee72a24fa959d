"""Little scripts, recorded for real and explained; what an optimizer consumed, from outside."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import tracer
from tracer.analysis.explain import Explainer, Explanation
from tracer.analysis.ledger import Row

__all__ = ["consumed_by", "explain", "totals", "weights"]


def explain(
    script: Callable[[], object], folder: Path, parameter: str = "w", step: int | None = None
) -> Explanation:
    """Record a script, and explain one parameter: of several fillings the last."""
    torch.manual_seed(0)
    path = folder / "run.trace"
    with tracer.Recorder(path):
        script()
    with tracer.load(path) as trace:
        return Explainer(trace).parameter(parameter, step)[-1]


def rows_of(found: Explanation) -> list[Row]:
    return sorted(found.ledger.rows, key=lambda row: (row.number, row.site))


def weights(found: Explanation) -> list[tuple[int, Fraction | float | None]]:
    """Items and the weight of each, row by row."""
    return [(row.items, row.weight) for row in rows_of(found)]


def totals(found: Explanation) -> list[Fraction | float | None]:
    return [term.total for term in found.verdict.terms]


def consumed_by(script: Callable[[], object], leaf: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What the first optimizer step of a script consumed of a leaf."""
    seen: list[torch.Tensor] = []

    def look(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        gradient = leaf().grad
        if not seen and gradient is not None:
            seen.append(gradient.detach().clone())

    handle = register_optimizer_step_pre_hook(look)
    try:
        torch.manual_seed(0)
        script()
    finally:
        handle.remove()
    return seen[0]
