"""Factors as exact numbers, and two gradients compared: by which factor is one the other?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from tracer.events import Measurement
from tracer.semantics.effects import Exact

__all__ = [
    "DOUBLE",
    "SINGLE",
    "is_rough",
    "is_same",
    "is_zero",
    "product",
    "proportion",
    "rounding",
    "said",
    "terms",
    "tidy",
    "total",
]

SINGLE = 4e-7
"""How far a factor measured in float32 may be off, relative to itself."""

DOUBLE = 1e-13
"""The same for a number that was recorded as it is, in double precision."""

LONGEST = 512
"""Bits of a numerator or denominator up to which a product is told as a fraction."""

ROUNDING = {"bfloat16": 4e-2, "float16": 5e-3, "float8_e5m2": 0.5, "float8_e4m3fn": 0.25}
FLOAT32_ROUNDING = 2e-5


def rounding(dtype: str) -> float:
    """How far sums of fingerprints may be off in this precision, relative to the norms."""
    return ROUNDING.get(dtype, FLOAT32_ROUNDING)


def is_rough(value: Exact | None, *dtypes: str) -> bool:
    """Whether a factor that was measured in these is not known to four digits."""
    return isinstance(value, float) and any(dtype in ROUNDING for dtype in dtypes)


def tidy(value: float, error: float = SINGLE) -> Exact:
    """The fraction that is meant, where exactly one simple one lies within the error.

    A fraction p/q is simple if p times q is far below 1/error: among random numbers not one in a
    thousand lies that near to one by chance. Powers of two are simple up to 2^24.
    """
    if not math.isfinite(value) or value == 0:
        return Fraction(0) if value == 0 else value
    size = abs(value)
    for whole in (round(size), round(1 / size) if size < 1 else 0):
        if whole and _is_near(size, Fraction(whole), error) and _is_simple(whole, error):
            return Fraction(int(math.copysign(whole, value)))
        if whole and _is_near(size, Fraction(1, whole), error) and _is_simple(whole, error):
            return Fraction(int(math.copysign(1, value)), whole)
    near = Fraction(size).limit_denominator(10_000)
    if _is_near(size, near, error) and near.numerator * near.denominator * error < 2e-3:
        return near if value > 0 else -near
    return value


def _is_near(value: float, fraction: Fraction, error: float) -> bool:
    return abs(value - fraction) <= error * value


def _is_simple(whole: int, error: float) -> bool:
    power_of_two = whole.bit_count() == 1 and whole <= 2**24
    return power_of_two or whole * error < 0.05


def product(factors: Iterable[Exact | None]) -> Exact | None:
    """All multiplied; None if one of them is not known."""
    result: Exact = Fraction(1)
    for factor in factors:
        if factor is None:
            return None
        result = result * factor
    return _within_range(result)


def _within_range(value: Exact) -> Exact:
    """The value; a fraction that no person would write, of a loop of factors, as a float."""
    if not isinstance(value, Fraction):
        return value
    if max(value.numerator.bit_length(), value.denominator.bit_length()) <= LONGEST:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def total(values: Iterable[Exact]) -> Exact:
    """All added: a fraction if all of them are."""
    known = list(values)
    if all(isinstance(value, Fraction) for value in known):
        return sum(known, Fraction(0))
    return math.fsum(float(value) for value in known)


def is_same(a: Exact | None, b: Exact | None, error: float = 2e-6) -> bool:
    """Whether two factors are equal, as far as measured ones can be."""
    if a is None or b is None:
        return a is b
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return math.isclose(float(a), float(b), rel_tol=error, abs_tol=0.0)


def said(value: Exact | None) -> str:
    """A factor as a person would write it: 1/8, 3, 1/65536, 0.3162; "?" for an unknown one."""
    if value is None:
        return "?"
    if isinstance(value, Fraction):
        short = value.numerator == 1 or value.numerator < 1000 > value.denominator
        if value.denominator == 1 and abs(value) < 10**9:
            return str(value.numerator)
        if short or abs(value.numerator) == 1 or value.numerator * value.denominator < 10**6:
            return str(value)
    return f"{float(value):.4g}"


def is_zero(measurement: Measurement) -> bool:
    return measurement.largest == 0 and measurement.nonfinite == 0


def terms(measurement: Measurement, has_values: bool = True) -> list[float]:
    """The linear numbers of a measurement: fingerprint, and all values where they are few."""
    found = list(measurement.fingerprint)
    for value in (measurement.values or ()) if has_values else ():
        found += (value.real, value.imag) if isinstance(value, complex) else (value,)
    return found


def proportion(
    parts: Sequence[Measurement], whole: Measurement, tolerance: float = FLOAT32_ROUNDING
) -> Exact | None:
    """c where whole = c x the sum of the parts, on every component; None where it is no multiple.

    1 means that they add up as they should. Zero on both sides is 1 as well.
    """
    if not parts or whole.nonfinite or any(part.nonfinite for part in parts):
        return None
    if len({part.elements for part in (*parts, whole)}) > 1:
        return None
    if len(parts) == 1 and parts[0] is whole:
        return Fraction(1)
    if not all(part.fingerprint for part in (*parts, whole)):
        return None
    # Values are not known of what was put together from the parts that ranks hold.
    with_values = all(one.values is not None for one in (*parts, whole))
    columns = zip(*(terms(part, with_values) for part in parts), strict=True)
    sums = [math.fsum(column) for column in columns]
    totals = terms(whole, with_values)
    scale = math.fsum(part.norm for part in parts)
    squares = math.fsum(s * s for s in sums)
    if _distance(sums, totals) <= tolerance * (scale + whole.norm):
        return Fraction(1)
    if squares <= (tolerance * scale) ** 2:
        return None
    factor = math.fsum(s * t for s, t in zip(sums, totals, strict=True)) / squares
    off = max(abs(t - factor * s) for s, t in zip(sums, totals, strict=True))
    if off > tolerance * (abs(factor) * scale + whole.norm):
        return None
    return tidy(_sharpened(factor, parts, whole), _error(parts, whole, tolerance))


def _distance(sums: Sequence[float], totals: Sequence[float]) -> float:
    return max(abs(s - t) for s, t in zip(sums, totals, strict=True))


def _sharpened(factor: float, parts: Sequence[Measurement], whole: Measurement) -> float:
    """Of a single part the norms tell the factor better than the projections."""
    if len(parts) > 1 or parts[0].norm == 0:
        return factor
    return math.copysign(whole.norm / parts[0].norm, factor)


def _error(parts: Sequence[Measurement], whole: Measurement, tolerance: float) -> float:
    """How exactly the factor is known: as the dtype rounds, never better than float32."""
    coarse = tolerance > FLOAT32_ROUNDING
    return tolerance / 10 if coarse else (SINGLE if len(parts) == 1 else 4 * SINGLE)
