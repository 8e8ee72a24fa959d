"""A finding: what is claimed, where, by which factor, and the chain of evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tracer.semantics.effects import Exact

__all__ = ["SEVERITIES", "Claim", "Finding", "Place", "Proof", "Severity"]

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The most severe first."""


@dataclass(frozen=True)
class Place:
    """A line of the user's, with its text as it was when it ran."""

    file: str
    line: int
    text: str = ""


@dataclass(frozen=True)
class Proof:
    """One link of the evidence: what was seen, by which factor, and the id of its line."""

    words: str
    source: int | None = None
    factor: Exact | None = None


@dataclass(frozen=True)
class Claim:
    """What a check says of some buffers in some windows; claims of one cause become one finding.

    `steps` are the windows it holds in, by the number of their step; `looked` how many windows of
    the kind were looked at, so that "3 of 25" can be said. `severity` and `remedy` are those of the
    check where they are not given.
    """

    message: str
    source: int | None
    buffers: Sequence[int] = ()
    factor: Exact | None = None
    evidence: Sequence[Proof] = ()
    steps: Sequence[int] = ()
    looked: int = 0
    severity: Severity | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Finding:
    """One cause, at the line to change.

    `where` says in which windows, "" if there is but one. `reference` are real issues of the kind.
    `step` is the first step it was seen at.
    """

    check: str
    severity: Severity
    message: str
    place: Place | None
    parameters: tuple[str, ...]
    factor: Exact | None
    """That of most windows."""
    factors: tuple[float, float] | None
    """The least and the largest, where it is not the same each time."""
    where: str
    evidence: tuple[tuple[str, Exact | None, Place | None], ...]
    remedy: str
    reference: str
    step: int | None = None
    trace: str = ""
