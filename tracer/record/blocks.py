"""What stands around a line of the user's in the file: loops, conditions, its variables' values."""

from __future__ import annotations

import linecache
import re

__all__ = ["assignments_before", "blocks_around"]

HEADS = re.compile(r"(?:async\s+)?(?:for|while|if|elif|else|with|try|except|finally|match|case)\b")
FUNCTIONS = re.compile(r"(?:async\s+)?(?:def|class)\b")
MOST_LINES = 2000
"""How far up it is looked for them."""

MOST_LETTERS = 200

NAME = re.compile(r"[A-Za-z_]\w*")
ASSIGNMENT = re.compile(r"\s*([A-Za-z_][\w, ]*?)\s*(?::[^=]*)?=(?!=)")
NEAR = 40
"""Lines before one among which its variables are looked for."""


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


def assignments_before(file: str, line: int) -> tuple[str, ...]:
    """The lines that last gave the variables of a line their values, the nearest first.

    Of a line that calculates; others need no looking for theirs.
    """
    lines = linecache.getlines(file)
    if not 0 < line <= len(lines) or not any(sign in lines[line - 1] for sign in "-+*/"):
        return ()
    wanted = set(NAME.findall(lines[line - 1]))
    found: list[str] = []
    for number in range(line - 2, max(line - 2 - NEAR, -1), -1):
        text = lines[number].strip()
        if FUNCTIONS.match(text):
            break
        match = ASSIGNMENT.match(text)
        targets = wanted & set(NAME.findall(match[1])) if match is not None else set()
        if targets:
            wanted -= targets
            found.append(text[:MOST_LETTERS])
    return tuple(found)


def _depth(text: str) -> int:
    expanded = text.expandtabs()
    return len(expanded) - len(expanded.lstrip())
