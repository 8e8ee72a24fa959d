"""How wide a text is: the widths of Helvetica, which Arial and Liberation Sans share."""

from __future__ import annotations

import unicodedata

__all__ = ["width"]

ASCII = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
)  # fmt: skip
"""Thousandths of the font size, from the space on."""

BOLD = 1.07
OTHERS = {"Σ": 618, "×": 584, "÷": 584, "·": 278, "…": 1000, "→": 1000, "↳": 1000}


def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in pixels; a little too much rather than too little."""
    thousandths = sum(_character(c) for c in text)
    return thousandths * size / 1000 * (BOLD if bold else 1.0)


def _character(c: str) -> int:
    place = ord(c) - 32
    if 0 <= place < len(ASCII):
        return ASCII[place]
    if c in OTHERS:
        return OTHERS[c]
    return 1000 if unicodedata.east_asian_width(c) in "WF" else 620
