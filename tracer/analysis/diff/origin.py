"""A fact by which two runs differ: other weights, data, functions; in words, with both lines."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Origin"]


@dataclass(frozen=True)
class Origin:
    """A place or a fact where the two runs are not the same, or, of kind "data", surely are.

    `kind` is "nonfinite", "weights", "graph", "option" (a flag, a word), "constant" (a number),
    "function" (losses are made of others), "items" (not as many), "normalisation" (over groups of
    another size), "loss", "data", "node" or "random". The lines are those of A and of B.
    """

    kind: str
    words: str
    source_a: int | None = None
    source_b: int | None = None
