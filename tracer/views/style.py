"""The visual language: one colour and one sign for what is summed, averaged, scaled, moved.

Blue, vermilion and yellow of Okabe and Ito keep apart for colour-blind eyes, and each has its sign:
Σ for a sum, "mean 1/n" for an average, × for a factor.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EDGE", "FACES", "FONT", "INK", "MUTED", "PILLS", "Face", "Paint"]

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK = "#1d2730"
MUTED = "#66727e"
EDGE = "#8a96a3"
NONFINITE = "#b3003c"


@dataclass(frozen=True)
class Paint:
    """Fill, border and text of a pill."""

    fill: str
    stroke: str
    text: str


PILLS = {
    "summed": Paint("#0072b2", "#0072b2", "#ffffff"),
    "averaged": Paint("#c8500a", "#c8500a", "#ffffff"),
    "scaled": Paint("#f5df4d", "#c2a500", "#1d2730"),
    "products": Paint("#e8f3fa", "#0072b2", "#004c78"),
    "opaque": Paint("#ffffff", "#66727e", "#3c4854"),
    "note": Paint("#ffffff", "#7aa896", "#1d2730"),
    "hooked": Paint("#ffffff", "#b3003c", "#b3003c"),
}


@dataclass(frozen=True)
class Face:
    """How a card looks."""

    fill: str
    stroke: str
    text: str = INK
    muted: str = MUTED
    radius: float = 5
    line: float = 1.0
    dashed: bool = False


FACES = {
    "root": Face("#24313d", "#24313d", "#ffffff", "#c5d0da", radius=7),
    "node": Face("#ffffff", "#aab4be"),
    "chain": Face("#f2f4f6", "#dde2e7", text=MUTED, radius=8),
    "opaque": Face("#ffffff", "#66727e", dashed=True),
    "module": Face("#ffffff", "#3c4a57", line=1.4, radius=6),
    "change": Face("#ffffff", "#009e73", radius=11),
    "buffer": Face("#e6f4ee", "#009e73", radius=11, line=1.3),
    "input": Face("#ffffff", "#66727e", radius=11),
    "proxy": Face("#f6fbf9", "#009e73", radius=11, dashed=True),
    "capture": Face("#e6f4ee", "#009e73", radius=3),
    "more": Face("#f2f4f6", "#aab4be", text=MUTED, dashed=True),
}

CLUSTERS = (Face("#f7f8fa", "#ccd3da"), Face("#eff2f5", "#c3ccd4"), Face("#e7ebf0", "#b9c3cc"))
"""Backgrounds of opened modules, the outermost first."""
