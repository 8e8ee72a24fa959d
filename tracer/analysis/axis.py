"""One line of an answer: how the gradients along one axis were put together."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Axis"]


@dataclass(frozen=True)
class Axis:
    """One line of the answer.

    `verdict` is "mean", "sum", "SUM" (a sum that nobody divided), "MEAN" (divided more than once),
    "UNEQUAL", "one", "?" or "-". `note` says what brought it about; `source` is the line.
    """

    name: str
    verdict: str
    words: str
    note: str = ""
    source: int | None = None
