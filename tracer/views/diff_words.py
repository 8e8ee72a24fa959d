"""Words that several parts of `diff` share: when, which parameters, how many times as large."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tracer.analysis.diff.difference import Difference
from tracer.analysis.diff.timeline import Comparison, Match
from tracer.analysis.diff.updates import Updates
from tracer.analysis.exact import is_same, said
from tracer.semantics.effects import Exact
from tracer.views.labels import listed

__all__ = [
    "MOST_NAMES",
    "REDUCED",
    "cancels",
    "factors_before",
    "names_of",
    "numbers_of",
    "times_of",
    "when_of",
    "word_of",
]

MOST_NAMES = 3
REDUCED = 1e-4
"""Gradients that are apart by more than this were computed in less than float32."""


def names_of(matches: Sequence[Match]) -> str:
    return listed([match.pair.name_a for match in matches], MOST_NAMES)


def word_of(comparison: Comparison) -> str:
    return "step" if comparison.is_step else "filling"


def numbers_of(comparison: Comparison) -> str:
    a, b = comparison.numbers
    return str(a) if a == b else f"{a} of A and {b} of B"


def when_of(comparison: Comparison) -> str:
    return f"{word_of(comparison)} {numbers_of(comparison)}"


def times_of(factor: Exact | None) -> str:
    if factor is None:
        return "?"
    about = "" if isinstance(factor, Fraction) else "about "
    return f"{about}{said(factor)} x as large in B"


def cancels(updates: Updates) -> str:
    """What becomes of a factor that an optimizer divides out again."""
    exceptions = ["eps"] if updates.has_eps else []
    if any(updates.coupled):
        exceptions.append("L2 decay")
    but = f", but for {' and '.join(exceptions)}" if exceptions else ""
    return f"{updates.kinds[0]} cancels{but}"


def factors_before(found: Difference, shown: Comparison) -> list[Exact]:
    """By which gradients differed before a moment; those of zero differ by none."""
    moments = found.moments[: found.moments.index(shown)]
    factors = [cluster.factor for moment in moments for cluster in moment.clusters]
    distinct = [
        factor
        for place, factor in enumerate(factors)
        if not any(is_same(factor, other, 1e-4) for other in factors[:place])
    ]
    return distinct or [Fraction(1)]
