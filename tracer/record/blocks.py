"""The loops and conditions around a line of the user's, as their first lines stand in the file."""

from __future__ import annotations

import linecache
import re

__all__ = ["blocks_around"]

HEADS = re.compile(r"(?:async\s+)?(?:for|while|if|elif|else|with|try|except|finally|match|case)\b")
FUNCTIONS = re.compile(r"(?:async\s+)?(?:def|class)\b")
MOST_LINES = 2000
"""How far up it is looked for them."""

MOST_LETTERS = 200


def blocks_around(file: str, line: int) -> tuple[str, ...]:
    """The heads of what a line is indented under, up to its function; the outermost first.

    By indentation alone: a line in the middle of a long expression belongs to the statement that it
    is indented under, and a bracket that closes one begins nothing.
    """
    lines = linecache.getlines(file)
    if not 0 < line <= len(lines):
        return ()
    found: list[str] = []
    depth = _depth(lines[line - 1])
    for number in range(line - 2, max(line - MOST_LINES, -1), -1):
        text = lines[number].strip()
        here = _depth(lines[number])
        if depth == 0 or not text or here >= depth or text[0] in "#)]}":
            continue
        depth = here
        if FUNCTIONS.match(text):
            break
        if HEADS.match(text):
            found.append(text[:MOST_LETTERS])
    return tuple(reversed(found))


def _depth(text: str) -> int:
    expanded = text.expandtabs()
    return len(expanded) - len(expanded.lstrip())
