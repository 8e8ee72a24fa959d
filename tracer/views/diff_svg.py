"""`diff --svg`: one parameter in both runs, from the loss to the update, side by side.

Two slices and not one graph in two colours: runs that split a batch otherwise have other graphs,
and it is where these differ that one looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape

from tracer.analysis.diff.difference import Difference
from tracer.analysis.diff.sides import Moment, Side
from tracer.errors import NothingRecorded
from tracer.views.diff import gradient_sentences, parting_sentences
from tracer.views.diff_headline import headline
from tracer.views.explain import Lines
from tracer.views.explain_svg import explanation_svg
from tracer.views.labels import clipped
from tracer.views.metrics import width
from tracer.views.style import FONT, INK, MUTED

__all__ = ["difference_svg"]

MARGIN = 18.0
GAP = 24.0
LINE = 18.0
MOST_SENTENCES = 5
LEAST_WIDTH = 700.0
SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"')


def difference_svg(found: Difference) -> str:
    """The picture: what the two have in common and where they part, over the slices of both.

    Raises:
        NothingRecorded: nothing can be compared, so that there is nothing to show.
        DotFailed: there is no layout program, or it fails.
    """
    if not found.exhibits:
        raise NothingRecorded(
            "nothing-recorded",
            f"{found.a.label} and {found.b.label} have no gradient in common that could be drawn",
        )
    match = found.exhibits[0].match
    left = _slice(found.a, match.pair.a, match.a)
    right = _slice(found.b, match.pair.b, match.b)
    return _composed(found, left, right)


def _slice(side: Side, buffer: int, moment: Moment) -> str:
    return explanation_svg(side.explanation(buffer, moment), side.trace)


def _size(picture: str) -> tuple[float, float]:
    size = SIZE.search(picture)
    assert size is not None, "a picture of ours begins with its size"
    return float(size[1]), float(size[2])


def _composed(found: Difference, left: str, right: str) -> str:
    (left_width, left_height), (right_width, right_height) = _size(left), _size(right)
    whole = max(left_width + right_width + GAP, LEAST_WIDTH)
    sentences = list(_sentences(found, whole))
    top = 2 * MARGIN + 22 + LINE * len(sentences) + LINE
    height = top + max(left_height, right_height)
    second = left_width + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole:g}" height="{height:g}" '
        f'viewBox="0 0 {whole:g} {height:g}" font-family="{escape(FONT, {chr(34): "&quot;"})}" '
        'role="img">',
        f"<title>{escape(headline(found))}</title>",
        f'<rect width="{whole:g}" height="{height:g}" fill="#ffffff"/>',
        _text(MARGIN, MARGIN + 14, headline(found), 16, INK, bold=True),
        *(
            _text(MARGIN, MARGIN + 22 + LINE * number, sentence, 12, INK)
            for number, sentence in enumerate(sentences, start=1)
        ),
        _text(MARGIN, top - 6, f"A   {_name(found.a)}", 13, MUTED, bold=True),
        _text(second + MARGIN, top - 6, f"B   {_name(found.b)}", 13, MUTED, bold=True),
        _placed(left, 0, top),
        _placed(right, second, top),
        f'<path d="M{second - GAP / 2:g} {top - LINE:g}V{height - MARGIN:g}" stroke="{MUTED}" '
        'stroke-dasharray="2 4"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _name(side: Side) -> str:
    return clipped(side.label.replace("\\", "/").rpartition("/")[2], 60)


def _sentences(found: Difference, whole: float) -> Iterator[str]:
    """As many as one reads above a picture, each as long as there is room for."""
    lines = (Lines(found.a.trace), Lines(found.b.trace))
    everything = [*gradient_sentences(found), *parting_sentences(found, lines)]
    for sentence in everything[:MOST_SENTENCES]:
        shown = sentence
        while width(shown, 12) > whole - 2 * MARGIN and len(shown) > 20:
            shown = clipped(sentence, len(shown) - 4)
        yield shown


def _text(x: float, y: float, text: str, size: int, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{weight} '
        f'xml:space="preserve">{escape(text)}</text>'
    )


def _placed(picture: str, x: float, y: float) -> str:
    return picture.replace("<svg ", f'<svg x="{x:g}" y="{y:g}" ', 1).strip()
