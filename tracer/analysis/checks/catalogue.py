"""Every check, in the order of the catalogue; the consequences of others come last."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.analysis.checks import (
    afterwards,
    consequences,
    foreign,
    lost,
    numbers,
    ranks,
    reduction,
    repeated,
    replicas,
    strangers,
)
from tracer.analysis.checks.registry import CHECKS, Check
from tracer.errors import WrongUse

__all__ = ["MODULES", "chosen", "known_checks"]

MODULES = [
    reduction,
    repeated,
    foreign,
    lost,
    replicas,
    ranks,
    afterwards,
    strangers,
    numbers,
    consequences,
]
"""The order in which checks are asked."""


def known_checks() -> dict[str, Check]:
    """Every check by its slug."""
    order = [module.__name__ for module in MODULES]
    ranked = sorted(CHECKS.values(), key=lambda check: order.index(check.function.__module__))
    return {check.slug: check for check in ranked}


def chosen(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> list[Check]:
    """The checks that are wanted: those selected, or all, without the ignored ones.

    Raises:
        WrongUse: a slug that no check has.
    """
    known, select, ignore = known_checks(), list(select), list(ignore)
    unknown = [slug for slug in (*select, *ignore) if slug not in known]
    if unknown:
        raise WrongUse(
            "wrong-use",
            f"no check is called {', '.join(map(repr, unknown))}; known are {', '.join(known)}",
        )
    return [
        check
        for slug, check in known.items()
        if (not select or slug in select) and slug not in ignore
    ]
