"""The head of a picture: what is shown of which run, and what the colours and signs mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import networkx as nx

from tracer.views import labels
from tracer.views.metrics import width
from tracer.views.style import EDGE, FACES, INK, MUTED, PILLS

__all__ = ["Heading", "heading"]

LEFT = 18.0
NARROWEST = 720.0
TITLE = 16.0
TEXT = 11.0
ROW = 24.0


@dataclass(frozen=True)
class Heading:
    """The title, drawn, with the room it takes."""

    title: str
    width: float
    height: float
    svg: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One sign of the legend and its meaning."""

    sign: str
    kind: str
    meaning: str

    @property
    def sign_width(self) -> float:
        return 30.0 if self.kind == "edge" else width(self.sign, 10.5, bold=True) + 14

    @property
    def width(self) -> float:
        return self.sign_width + 6 + width(self.meaning, TEXT) + 18


ENTRIES = (
    Entry("Σ  n", "summed", "n contributions are added"),
    Entry("mean  1/n", "averaged", "averaged, each weighs 1/n"),
    Entry("×  c", "scaled", "scaled"),
    Entry("Σ  n each", "products", "each is a sum of n terms"),
    Entry("Mul, View", "chain", "moved, or elementwise"),
    Entry("opaque", "opaque", "its effect is not known"),
    Entry("1 hook", "hooked", "the script may change it here"),
    Entry("weight", "buffer", ".grad of a parameter"),
    Entry("x", "input", ".grad of another tensor"),
    Entry("", "edge", "larger norm"),
)

ALWAYS = frozenset({"summed", "averaged", "scaled", "chain", "buffer", "edge"})


def heading(folded: nx.MultiDiGraph, across: float, kinds: frozenset[str]) -> Heading:
    """Title, subtitles and legend, in as many rows as the width of the picture asks for."""
    title = _title(folded)
    subtitles = [text for text in _subtitles(folded) if text]
    texts = [width(title, TITLE, bold=True), *(width(text, TEXT) for text in subtitles)]
    room = max(across, NARROWEST, max(texts) + 2 * LEFT)
    svg = [_words(LEFT, 30, title, TITLE, INK, bold=True)]
    y = 30.0
    for text in subtitles:
        y += 17
        svg.append(_words(LEFT, y, text, TEXT, MUTED))
    y += 14
    rows = _rows(kinds, room - 2 * LEFT)
    for row in rows:
        x = LEFT
        for entry in row:
            svg += _entry(entry, x, y)
            x += entry.width
        y += ROW
    line = f'<path d="M{LEFT:g},{y + 3:g}H{room - LEFT:g}" stroke="#dde2e7"/>'
    return Heading(title, room, y + 16, (*svg, line))


def _title(folded: nx.MultiDiGraph) -> str:
    about = folded.graph
    parts = [labels.clipped(_script(folded) or "gradients", 60)]
    if about.get("parameter"):
        parts.append(labels.clipped(about["parameter"], 60))
    if about.get("step") is not None:
        parts.append(f"step {about['step']}")
    calls = about.get("calls", ())
    if len(calls) == 1:
        parts.append(f"backward call {calls[0]}")
    else:
        parts.append(labels.plural(len(calls), "backward call"))
    if about.get("world", 1) > 1:
        parts.append(f"rank {about['rank']} of {about['world']}")
    return "  ·  ".join(parts)


def _script(folded: nx.MultiDiGraph) -> str:
    """The script; of a run without one, the file where a backward call was made."""
    lines = (data["lines"] for _, data in folded.nodes(data=True) if data["kind"] == "root")
    files = [places[0]["file"] for places in lines if places]
    return labels.short_line(folded.graph.get("script") or next(iter(files), ""), 0)


def _subtitles(folded: nx.MultiDiGraph) -> Iterator[str]:
    about = folded.graph
    for step in about.get("steps_taken", ())[:2]:
        yield _optimizer(step, about.get("script", ""))
    yield about.get("note", "")
    yield ": ".join(filter(None, (_size(folded), about.get("fold", ""))))


def _size(folded: nx.MultiDiGraph) -> str:
    kinds = ("node", "chain", "module", "more")
    shown = [data["nodes"] for _, data in folded.nodes(data=True) if data["kind"] in kinds]
    if sum(shown) == len(shown):
        return ""
    return f"{labels.plural(sum(shown), 'autograd node')}, drawn as {len(shown)}"


def _optimizer(step: dict[str, Any], script: str) -> str:
    rates = dict.fromkeys(labels.number(o["lr"]) for o in step["options"] if "lr" in o)
    rate = f", lr {labels.listed(rates)}" if rates else ""
    where = labels.short_line(step["file"], step["line"], script)
    return (
        f"then {step['name']} consumes {labels.plural(step['buffers'], 'buffer')}{rate}  ({where})"
    )


def _rows(kinds: frozenset[str], room: float) -> list[list[Entry]]:
    """The entries that matter here, in as many rows as they need."""
    rows: list[list[Entry]] = [[]]
    used = 0.0
    for entry in ENTRIES:
        if entry.kind not in ALWAYS and entry.kind not in kinds:
            continue
        if rows[-1] and used + entry.width - 18 > room:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += entry.width
    return rows


def _entry(entry: Entry, x: float, y: float) -> Iterator[str]:
    end = x + entry.sign_width
    if entry.kind == "edge":
        for number, line in enumerate((1.0, 2.8, 5.0)):
            place = f"M{x:g},{y + 3 + 5.5 * number:g}h26"
            yield f'<path d="{place}" stroke="{EDGE}" stroke-width="{line}"/>'
    else:
        yield _sign(entry, x, y)
    yield _words(end + 6, y + 12.3, entry.meaning, TEXT, INK)


def _sign(entry: Entry, x: float, y: float) -> str:
    if entry.kind in PILLS:
        paint = PILLS[entry.kind]
        fill, stroke, text, radius, dashes = paint.fill, paint.stroke, paint.text, 4.0, ""
        if entry.kind == "opaque":
            dashes = ' stroke-dasharray="4 3"'
    else:
        face = FACES[entry.kind]
        fill, stroke, text, radius, dashes = face.fill, face.stroke, face.text, face.radius, ""
    is_bold = entry.kind != "chain"
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{entry.sign_width:.1f}" height="17" '
        f'rx="{min(radius, 8):g}" fill="{fill}" stroke="{stroke}"{dashes}/>'
        + _words(x + 7, y + 12.3, entry.sign, 10.5, text, bold=is_bold)
    )


def _words(x: float, y: float, text: str, size: float, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    safe = escape("".join(c if c.isprintable() else "�" for c in text))
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"{weight} '
        f'xml:space="preserve">{safe}</text>'
    )
