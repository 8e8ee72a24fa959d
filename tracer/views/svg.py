"""A graph as an SVG picture: the loss at the top, parameters at the bottom, modules as boxes.

The layout program only says where things go; what they look like is drawn here, so that a picture
is the same with every version of Graphviz, and no name from a trace ever reaches its label syntax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import networkx as nx

from tracer.graph.build import build
from tracer.graph.fold import COMFORTABLE, HARD_LIMIT, fold
from tracer.graph.slice import between
from tracer.tracefile import Trace
from tracer.views import dot
from tracer.views.cards import PADDING, PILL_HEIGHT, Card, Pill, Row, cards
from tracer.views.layout import TIMEOUT, Box, Curve, Layout, TooSlow, find_program, laid_out
from tracer.views.legend import heading
from tracer.views.metrics import width
from tracer.views.style import CLUSTERS, EDGE, FACES, FONT, INK, MUTED, NONFINITE, PILLS, Face
from tracer.views.tips import edge_tip
from tracer.views.widths import edge_width, norm_range

__all__ = ["draw", "render"]

MARGIN = 18.0
SHEET = "#dfe4e9"
"""The sheets under a card that stands for several."""

ATTEMPTS = 6
"""How many coarser pictures are tried when a layout takes too long or too much room."""

TALLEST = 1650
WIDEST = 2000
ROOM = 600_000
"""Pixels of a default picture, about a page; what is larger is folded further."""


Finish = Callable[[nx.MultiDiGraph], None]


def _nothing(folded: nx.MultiDiGraph) -> None:
    """Leaves a folded graph as it is."""


def render(
    trace_or_graph: Trace | str | Path | nx.MultiDiGraph,
    *,
    depth: int | None = None,
    parameter: str | None = None,
    call: int | None = None,
    step: int | None = None,
    program: str | Path | None = None,
    timeout: float = TIMEOUT,
    finish: Finish = _nothing,
) -> str:
    """The picture of a trace, or of a graph that `build` made of one, as SVG text.

    By default all of a step's window, folded until it fits a page. `depth` opens modules down to a
    level, `parameter` shows only what leads to one parameter, `call` only one backward call.
    `finish` may add to a folded graph before it is laid out.

    Raises:
        DotFailed: there is no layout program, or it fails.
        UnknownName: no such parameter, call or step.
    """
    found = find_program(program)
    if isinstance(trace_or_graph, nx.MultiDiGraph):
        graph = trace_or_graph
    else:
        graph = build(trace_or_graph, step=step, call=call)
    if parameter is not None:
        graph = between(graph, parameter)
    if graph.graph.get("view") == "folded":
        return draw(graph, found, timeout)
    return _first_in_time(graph, depth, found, timeout, finish)


def _first_in_time(
    graph: nx.MultiDiGraph, depth: int | None, program: str, timeout: float, finish: Finish
) -> str:
    """The finest picture whose layout is ready in time and, if no depth was asked for, fits."""
    limit = COMFORTABLE if depth is None else HARD_LIMIT
    reason = ""
    for attempt in range(ATTEMPTS):
        folded = fold(graph, depth=depth, limit=limit, skip=attempt)
        folded.graph["fold"] += reason
        finish(folded)
        is_last = attempt == ATTEMPTS - 1
        try:
            layout = _layout(folded, program, timeout)
        except TooSlow:
            if is_last:
                raise
            reason = f"; folded further, as the layout took over {timeout:g} s"
            continue
        if depth is not None or is_last or _fits(folded, layout):
            return _drawn(folded, layout)
    raise AssertionError("every attempt returns or raises")


def _fits(folded: nx.MultiDiGraph, layout: Layout) -> bool:
    """Whether a default picture has the size of a page; one with opened modules is smaller."""
    boxes = any(data["kind"] == "module" for _, data in folded.nodes(data=True))
    if folded.graph["clusters"] and not boxes:
        return layout.width * layout.height <= ROOM
    return layout.height <= TALLEST and layout.width <= WIDEST


def draw(folded: nx.MultiDiGraph, program: str, timeout: float = TIMEOUT) -> str:
    """The picture of a folded graph."""
    return _drawn(folded, _layout(folded, program, timeout))


def _layout(folded: nx.MultiDiGraph, program: str, timeout: float) -> Layout:
    shown = cards(folded)
    layout = laid_out(dot.plan(folded, shown), program, timeout)
    _place_beside(layout, folded, shown)
    return layout


def _drawn(folded: nx.MultiDiGraph, layout: Layout) -> str:
    shown = cards(folded)
    head = heading(folded, max(layout.width, 0) + 2 * MARGIN, _kinds(shown))
    across = math.ceil(max(layout.width + 2 * MARGIN, head.width))
    down = math.ceil(head.height + layout.height + MARGIN)
    left = (across - layout.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" '
        f'viewBox="0 0 {across} {down}" font-family="{FONT}" role="img">',
        f"<title>{_text(head.title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{across}" height="{down}" fill="#ffffff"/>',
        *head.svg,
        f'<g transform="translate({left:.1f} {head.height:.1f})">',
        *_backgrounds(folded, layout),
        *_edges(folded, layout, shown),
        *_cluster_titles(folded, layout),
        *_nodes(folded, layout, shown),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place_beside(layout: Layout, folded: nx.MultiDiGraph, shown: Mapping[str, Card]) -> None:
    """Take apart what was laid out as one: a box, and its parameters at its right side."""
    names = dot.numbered(folded)
    for leaf, box in dot.beside(folded).items():
        both = layout.nodes[names[box]]
        left, right = shown[box], shown[leaf]
        height = max(left.height, right.height)
        start = both.x - both.width / 2
        layout.nodes[names[box]] = Box(start + left.width / 2, both.y, left.width, height)
        x = start + left.width + dot.BESIDE + right.width / 2
        layout.nodes[names[leaf]] = Box(x, both.y, right.width, right.height)


def _across(layout: Layout, sender: str, receiver: str) -> Curve | None:
    """The short way from a box to the parameters at its side."""
    u, v = layout.nodes[sender], layout.nodes[receiver]
    start, end = u.x + u.width / 2, v.x - v.width / 2
    third = (end - start - 8) / 3
    points = tuple((start + third * part, u.y) for part in range(4))
    return Curve(points, (end, u.y), None)


def _kinds(shown: Mapping[str, Card]) -> frozenset[str]:
    """The signs that occur, so that the legend explains these and no others."""
    pills = {pill.kind for card in shown.values() for pill in card.pills}
    return frozenset(pills | {card.face for card in shown.values()})


STYLE = (
    ".edge:hover path{stroke:#0072b2}.edge:hover .tip{fill:#0072b2}"
    ".node:hover .card{stroke:#0072b2;stroke-width:2.4}"
)


def _text(text: str) -> str:
    """Text as XML has it; what XML forbids even escaped is replaced."""
    return escape("".join(c if c == "\n" or c.isprintable() else "�" for c in text))


def _cluster_titles(folded: nx.MultiDiGraph, layout: Layout) -> Iterator[str]:
    for number, cluster in enumerate(folded.graph["clusters"]):
        box = layout.clusters.get(number)
        if box is None:
            continue
        path = cluster["path"]
        face = CLUSTERS[min(len(path), len(CLUSTERS)) - 1]
        name, kind = dot.cluster_title(folded, path)
        x, y = box.x + box.width / 2 - 9, box.y - box.height / 2 + 15
        yield _words(x, y, kind, 10.5, MUTED, anchor="end", halo=face.fill)
        x -= width(kind, 10.5) + 7 if kind else 0
        yield _words(x, y, name, 11.5, INK, bold=True, anchor="end", halo=face.fill)


def _backgrounds(folded: nx.MultiDiGraph, layout: Layout) -> Iterator[str]:
    """The boxes of opened modules; one that stands for several has more sheets under it."""
    for number, cluster in enumerate(folded.graph["clusters"]):
        box = layout.clusters.get(number)
        if box is not None:
            path = cluster["path"]
            face = CLUSTERS[min(len(path), len(CLUSTERS)) - 1]
            for shift in (5, 2.5) if path[-1].startswith("[") else ():
                yield _rectangle(box, face, "layer", shift)
            yield _rectangle(box, face, "cluster")


def _rectangle(box: Box, face: Face, role: str, shift: float = 0) -> str:
    dashes = ' stroke-dasharray="4 3"' if face.dashed else ""
    return (
        f'<rect class="{role}" x="{box.x - box.width / 2 + shift:.1f}" '
        f'y="{box.y - box.height / 2 + shift:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{face.radius:g}" fill="{face.fill}" '
        f'stroke="{face.stroke}" stroke-width="{face.line:g}"{dashes}/>'
    )


def _words(
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str,
    bold: bool = False,
    anchor: str = "",
    halo: str = "",
) -> str:
    around = f' stroke="{halo}" stroke-width="3" paint-order="stroke"' if halo else ""
    weight = ' font-weight="bold"' if bold else ""
    place = f' text-anchor="{anchor}"' if anchor else ""
    look = f'font-size="{size:g}" fill="{colour}"{weight}{place}{around}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look} xml:space="preserve">{_text(text)}</text>'


def _nodes(folded: nx.MultiDiGraph, layout: Layout, shown: Mapping[str, Card]) -> Iterator[str]:
    for key, name in dot.numbered(folded).items():
        box = layout.nodes.get(name)
        if box is not None:
            yield from _card(shown[key], box)


def _card(card: Card, box: Box) -> Iterator[str]:
    face = FACES[card.face]
    yield f'<g class="node {card.face}"><title>{_text(card.tip)}</title>'
    for layer in range(card.layers - 1, 0, -1):
        yield _rectangle(box, replace(face, fill=SHEET), "layer", 2.5 * layer)
    yield _rectangle(box, face, "card")
    left, right = box.x - box.width / 2 + PADDING, box.x + box.width / 2 - PADDING
    y = box.y - card.height / 2 + card.margin
    for row in card.rows:
        yield from _row(row, face, left, right, y)
        y += row.height
    yield "</g>"


def _row(row: Row, face: Face, left: float, right: float, y: float) -> Iterator[str]:
    baseline = y + (row.height + row.size) / 2 - 2
    if row.text:
        colour = face.muted if row.muted else face.text
        yield _words(left, baseline, row.text, row.size, colour, row.bold)
    x = left + max(row.text_width, row.indent)
    for pill in row.pills:
        yield _pill(pill, x, y + 1)
        x += pill.width + 4
    if row.beside:
        yield _words(right, baseline, row.beside, 10, face.muted, anchor="end")


def _pill(pill: Pill, x: float, y: float) -> str:
    paint = PILLS[pill.kind]
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{pill.width:.1f}" height="{PILL_HEIGHT:g}" rx="4" '
        f'fill="{paint.fill}" stroke="{paint.stroke}" stroke-width="0.8"/>'
        + _words(x + 6, y + 11.8, pill.text, 10.5, paint.text, bold=True)
    )


def _edges(folded: nx.MultiDiGraph, layout: Layout, shown: Mapping[str, Card]) -> Iterator[str]:
    norms = norm_range(folded)
    titles = {key: card.title for key, card in shown.items()}
    written: list[str] = []
    names, pairs = dot.numbered(folded), dot.beside(folded)
    for number, (u, v, data) in enumerate(folded.edges(data=True)):
        curve = layout.edges.get(f"e{number}")
        if pairs.get(v) == u:
            curve = _across(layout, names[u], names[v])
        if curve is None:
            continue
        bad = bool(data["nonfinite"])
        colour = NONFINITE if bad else EDGE
        line = edge_width(data, norms)
        yield f'<g class="edge"><title>{_text(edge_tip(data, titles[u], titles[v]))}</title>'
        is_nothing = not data["norm"] and data["norms"] is not None
        yield from _arrow(curve, line, colour, dashed=bad or is_nothing)
        yield "</g>"
        if curve.label is not None:
            written.append(_label(curve, dot.edge_label(data)))
    yield from written


def _label(curve: Curve, text: str) -> str:
    x, y = curve.label or (0.0, 0.0)
    return (
        f'<text x="{x:.1f}" y="{y + 3:.1f}" font-size="10" text-anchor="middle" fill="{INK}" '
        f'stroke="#ffffff" stroke-width="3" paint-order="stroke">{_text(text)}</text>'
    )


def _arrow(curve: Curve, line: float, colour: str, dashed: bool) -> Iterator[str]:
    points = curve.points
    tip = curve.tip or points[-1]
    head = 5.5 + line
    dashes = ' stroke-dasharray="3 3"' if dashed else ""
    beginning = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    rest = " ".join(f"{x:.1f},{y:.1f}" for x, y in points[1:])
    yield (
        f'<path d="{beginning}C{rest}" fill="none" stroke="{colour}" '
        f'stroke-width="{line:.2f}"{dashes}/>'
    )
    yield f'<polygon class="tip" points="{_triangle(points, tip, head)}" fill="{colour}"/>'


def _triangle(points: Iterable[tuple[float, float]], tip: tuple[float, float], size: float) -> str:
    """An arrow head that ends at `tip` and looks along the curve's end."""
    x0, y0 = list(points)[-1]
    dx, dy = tip[0] - x0, tip[1] - y0
    length = math.hypot(dx, dy) or 1.0
    dx, dy = dx / length, dy / length
    bx, by = tip[0] - dx * size, tip[1] - dy * size
    half = size * 0.48
    corners = (tip, (bx - dy * half, by + dx * half), (bx + dy * half, by - dx * half))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
