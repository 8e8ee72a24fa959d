"""Numbers, factors, shapes and places as a picture or a line has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Any

__all__ = [
    "between",
    "chunks",
    "clipped",
    "factor",
    "number",
    "operator",
    "plural",
    "shape",
    "short_line",
    "value",
]

LARGEST_DENOMINATOR = 2**24
SMALL_DENOMINATOR = 16
MOST_CHUNKS = 4
NEAR = 1e-6
"""Float32 rounding: what is nearer than this to a plain number is meant to be it."""


def number(x: float | complex | None, digits: int = 4) -> str:
    """Four digits, without the dust of float32: 0.4183, 12, 1.5e-05."""
    if x is None:
        return "?"
    if isinstance(x, complex):
        return f"{number(x.real)}{'-' if x.imag < 0 else '+'}{number(abs(x.imag))}i"
    if not math.isfinite(x):
        return "NaN" if math.isnan(x) else ("inf" if x > 0 else "-inf")
    whole = round(x)
    if abs(x) < 1e7 and math.isclose(x, whole, rel_tol=NEAR, abs_tol=0.0):
        return f"{whole:,}"
    if 1000 <= abs(x) < 1e7:
        return f"{float(f'{x:.{digits}g}'):,.0f}"
    return f"{x:.{digits}g}"


def factor(x: float | Fraction | None) -> str:
    """A factor as a person would write it: 1/8, 1/65536, 0.05, 2/3, 0.3162."""
    if x is None:
        return "?"
    if isinstance(x, Fraction):
        return str(x)
    if not math.isfinite(x) or x == 0:
        return number(x)
    if abs(x - round(x)) <= NEAR * abs(x):
        return str(round(x))
    inverse = 1 / x
    denominator = round(inverse)
    is_inverse = 0 < abs(denominator) <= LARGEST_DENOMINATOR and math.isclose(
        inverse, denominator, rel_tol=NEAR
    )
    if is_inverse and abs(denominator).bit_count() == 1:
        return f"{'-' if x < 0 else ''}1/{abs(denominator)}"
    if math.isclose(x, round(x, 2), rel_tol=NEAR):
        return f"{round(x, 2):g}"
    if is_inverse:
        return f"{'-' if x < 0 else ''}1/{abs(denominator)}"
    plain = Fraction(x).limit_denominator(SMALL_DENOMINATOR)
    return str(plain) if plain and math.isclose(x, plain, rel_tol=NEAR) else f"{x:.4g}"


def between(ends: Sequence[float] | None, digits: int = 3) -> str:
    """A range of norms: one number where both ends look the same."""
    if ends is None:
        return "?"
    low, high = number(ends[0], digits), number(ends[1], digits)
    return low if low == high else f"{low} … {high}"


def shape(dimensions: Sequence[int] | None) -> str:
    """[8×3×3×3]; "scalar" for a tensor without dimensions."""
    if dimensions is None:
        return "?"
    return f"[{'×'.join(map(str, dimensions))}]" if dimensions else "scalar"


def value(values: Sequence[Any] | None, most: int = 4) -> str:
    """The elements of a small tensor: "2.31", "[1, 2]"; "" where they were not kept."""
    if not values:
        return ""
    if len(values) == 1:
        return number(values[0])
    shown = ", ".join(number(v) for v in values[:most])
    return f"[{shown}]" if len(values) <= most else f"[{shown}, …]"


def short_line(file: str, line: int, script: str = "") -> str:
    """train.py:52, without the folders; "line 52" for a line of the script itself."""
    if line and file == script:
        return f"line {line}"
    name = file.replace("\\", "/").rpartition("/")[2]
    return f"{name}:{line}" if line else name


def operator(name: str) -> str:
    """The name of an autograd node without what all of them have: Mean, NllLoss."""
    plain = name.rpartition("::")[2].rstrip("0123456789")
    return plain.removesuffix("s").removesuffix("Backward") or plain or name


def plural(count: int, word: str) -> str:
    """1 call, 3 calls, 1,024 calls."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def chunks(sizes: Sequence[int]) -> str:
    """2 + 2; of many, those that are alike together: 7 × 3 + 2."""
    if len(sizes) <= MOST_CHUNKS:
        return " + ".join(map(str, sizes))
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    texts = [f"{count} × {size}" if count > 1 else str(size) for size, count in runs]
    return " + ".join(texts if len(texts) <= MOST_CHUNKS else [*texts[:3], "…", texts[-1]])


def clipped(text: str, most: int) -> str:
    """The text in one line of at most so many characters, its middle left out if need be."""
    plain = "".join(c if c.isprintable() else "�" for c in text)
    if len(plain) <= most:
        return plain
    head = most * 2 // 3 - 1
    return f"{plain[:head]}…{plain[len(plain) - (most - head - 1) :]}"


def listed(words: Iterable[str], most: int = 3) -> str:
    """a, b, c … n more."""
    everything = list(words)
    shown = ", ".join(everything[:most])
    rest = len(everything) - most
    return shown if rest <= 0 else f"{shown} … {rest:,} more"
