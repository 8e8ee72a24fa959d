"""The table of checks: a decorator puts a function in, and its docstring is its documentation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tracer.analysis.checks.case import Case
from tracer.analysis.checks.finding import Claim, Severity

__all__ = ["CHECKS", "Check", "Function", "check"]

Function = Callable[[Case], Iterable[Claim]]


@dataclass(frozen=True)
class Check:
    """A rule over a `Case`, with what all its findings share."""

    slug: str
    severity: Severity
    function: Function
    remedy: str
    reference: str
    section: str

    @property
    def documentation(self) -> str:
        """The docstring, without the indentation of the code."""
        return inspect.cleandoc(self.function.__doc__ or "")


CHECKS: dict[str, Check] = {}
"""Filled by the decorator; `catalogue` says the order."""


def check(
    slug: str,
    *,
    severity: Severity,
    section: str,
    remedy: str,
    reference: str = "",
) -> Callable[[Function], Function]:
    """Put a function into the table. `severity` is the highest that it gives."""

    def register(function: Function) -> Function:
        if slug in CHECKS:
            raise ValueError(f"a second check called {slug}")
        CHECKS[slug] = Check(slug, severity, function, remedy, reference, section)
        return function

    return register
