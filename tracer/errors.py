"""What can go wrong, with a slug each.

TracerError
|- TraceUnreadable      not-a-trace, damaged-trace, other-schema, missing-file, several-runs
|- TraceUnwritable      unwritable-trace
|- NothingRecorded      nothing-recorded
|- UnknownName          unknown-parameter, unknown-call, unknown-step
|- DotFailed            no-dot, dot-failed
`- WrongUse             wrong-use

Each slug has a paragraph in docs/errors.md.
"""

from __future__ import annotations

__all__ = [
    "DotFailed",
    "NothingRecorded",
    "TraceUnreadable",
    "TraceUnwritable",
    "TracerError",
    "UnknownName",
    "WrongUse",
]


class TracerError(Exception):
    """Something a user can mend: one line that says what was found, expected and what to do."""

    def __init__(self, slug: str, message: str) -> None:
        super().__init__(message)
        self.slug = slug


class TraceUnreadable(TracerError):
    """Missing, no trace, damaged, of another schema, or several runs where one was expected."""


class TraceUnwritable(TracerError):
    """The trace file cannot be made or written where it should go."""


class NothingRecorded(TracerError):
    """The trace is sound but holds no backward call."""


class UnknownName(TracerError):
    """A parameter, backward call or step was asked for that the trace does not hold."""


class DotFailed(TracerError):
    """No layout program was found, or it failed, or it took too long."""


class WrongUse(TracerError):
    """The options contradict one another or ask for what does not exist."""
