"""How the values of options are read, from the command line and from a script's own table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tracer.events import DETAILS

__all__ = [
    "Steps",
    "option",
    "parse_count",
    "parse_detail",
    "parse_output",
    "parse_steps",
    "parse_switch",
    "parse_whole",
]

T = TypeVar("T")

Steps = tuple[int, int | None]
"""The first and the last optimizer step, from 1 on, both included; None for no last one."""


def option(parse: Callable[[object], T]) -> Callable[[str], T]:
    """The same reader for argparse, which wants its own exception."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def parse_steps(text: object) -> Steps:
    """`A:B`, `A:`, `:B` or `A`."""
    first, colon, last = str(text).partition(":")
    try:
        steps = (int(first or 1), int(last) if last else None if colon else int(first))
    except ValueError:
        steps = (0, 0)
    if steps[0] < 1 or (steps[1] is not None and steps[1] < steps[0]) or text in ("", ":"):
        raise ValueError(f"found {str(text)!r}, expected A:B, A:, :B or A, from 1 on")
    return steps


def parse_count(text: object) -> int:
    """A whole number from 1 on."""
    number = _whole(text)
    if not number:
        raise ValueError(f"found {str(text)!r}, expected a whole number from 1 on")
    return number


def parse_detail(text: object) -> str:
    """One of the levels of detail."""
    if text not in DETAILS:
        raise ValueError(f"found {text!r}, expected one of {', '.join(DETAILS)}")
    return str(text)


def parse_whole(text: object) -> int:
    """A whole number from 0 on."""
    number = _whole(text)
    if number is None:
        raise ValueError(f"found {str(text)!r}, expected a whole number from 0 on")
    return number


def _whole(value: object) -> int | None:
    digits = "" if isinstance(value, bool) else str(value)
    return int(digits) if digits.isdecimal() else None


def parse_output(text: object) -> Path:
    """The path of the trace, which ends in `.trace` whatever was typed."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"found {text!r}, expected the path of a .trace file")
    return Path(text if text.endswith(".trace") else f"{text}.trace").absolute()


def parse_switch(value: object) -> bool:
    """True or false, as TOML has them."""
    if not isinstance(value, bool):
        raise ValueError(f"found {value!r}, expected true or false")
    return value
