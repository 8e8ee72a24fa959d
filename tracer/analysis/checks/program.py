"""Where a line stands in the program: behind another one in the loop, and what the script calls it.

All that a trace has of a script are the lines that made something, each with the loops and
conditions that it is in, and with the line that called the function around it.
"""

from __future__ import annotations

import re

from tracer.events import Source
from tracer.tracefile import Trace

__all__ = [
    "ACCUMULATION",
    "ADVERSARY",
    "EVERY_SO_MANY",
    "LOOP_OVER_UNITS",
    "PARTS_OF_A_BATCH",
    "UNITS",
    "VALIDATION",
    "Way",
    "comes_after",
    "parted",
    "says",
    "way_to",
]

ADVERSARY = re.compile(
    r"(?<![a-z])(?:disc|discriminator|critic|fake|adv|adversary|adversarial|gan|net_?d|loss_?d|"
    r"d_?loss|err_?d)(?![a-z])"
)
"""What the script calls that a loss goes through on its way to what it trains."""

VALIDATION = re.compile(
    r"(?<![a-z])(?:val|valid|validation|validate|eval|evaluate|evaluation|test)(?![a-z])"
)
"""What a loss is called that nothing is to be learnt from."""


ACCUMULATION = re.compile(
    r"accum|grad_?acc|(?<![a-z])micro|(?<![a-z])mini_?batch|(?<![a-z])subdivision|"
    r"(?<![a-z])(?:update_freq|iter_size|virtual_batch)"
)
"""What the parts of a batch are called."""

PARTS_OF_A_BATCH = re.compile(
    r"for\b(?!.*(?:seq|time|bptt|token|text|frame|step)).*\.(?:chunk|split|tensor_split)\("
    r"\s*[\w.]+\s*\)"
)
"""A loop over what a tensor was cut into along its first dimension."""

EVERY_SO_MANY = re.compile(
    r"(?:el)?if\b.*(?:%|(?<![a-z])(?:count|counter|cnt|accumulated)(?![a-z]).*(?:==|>=))"
)
"""A condition that holds in every k-th turn of a loop."""

UNITS = re.compile(
    r"(?<![a-z])(?:task|domain|episode|client|trajectory|rollout)s?(?![a-z])|trajectories"
)
"""What is averaged on its own by intent, whatever its size."""

LOOP_OVER_UNITS = re.compile(
    rf"for\b.*(?:{UNITS.pattern}|(?<![a-z])"
    r"(?:env|environment|level|head|view|crop|graph|language|skill|speaker|user)s?(?![a-z]))"
)
"""A loop over such: words that mean other things elsewhere."""


Way = tuple[tuple[str, int], ...]


def frames_of(trace: Trace, source: int | None) -> list[Source]:
    """The lines at work, outermost first."""
    found: list[Source] = []
    while source is not None and source in trace.sources:
        found.append(trace.sources[source])
        source = found[-1].caller
    return found[::-1]


def way_to(trace: Trace, source: int | None) -> Way:
    """The lines by which a line was come to, to compare with others."""
    return tuple((frame.file, frame.line) for frame in frames_of(trace, source))


def _aligned(
    trace: Trace, source: int | None, other: int | None
) -> tuple[list[Source], list[Source]]:
    """The frames of two lines from one place on: of a deep stack the outermost are not kept."""
    one, two = frames_of(trace, source), frames_of(trace, other)
    shifts = [(one, two)]
    shifts += [(one[n:], two) for n in range(1, len(one))]
    shifts += [(one, two[n:]) for n in range(1, len(two))]
    return max(shifts, key=lambda pair: _shared(*pair))  # the first of those that share most


def _shared(one: list[Source], two: list[Source]) -> int:
    """How many frames two ways have in common from their beginning."""
    shared = 0
    while shared < min(len(one), len(two)) and _place(one[shared]) == _place(two[shared]):
        shared += 1
    return shared


def comes_after(trace: Trace, source: int | None, other: int | None) -> bool | None:
    """Whether a line stands behind another one in the function that both are called from.

    None where that is not to be told: the lines have no function in common, or are the same.
    """
    for one, two in zip(*_aligned(trace, source, other), strict=False):
        if (one.file, one.function) != (two.file, two.function):
            return None
        if one.line != two.line:
            return one.line > two.line
    return None


def parted(trace: Trace, source: int | None, other: int | None) -> tuple[list[str], list[str]]:
    """What is said of each of two lines and not of both, from where their ways part.

    The text of the lines, the heads of the loops and conditions that the other is not in, and the
    names of the functions that they are in.
    """
    one, two = _aligned(trace, source, other)
    shared = _shared(one, two)
    one, two = one[shared:], two[shared:]
    common = 0
    if one and two and one[0].function == two[0].function:
        while common < min(len(one[0].within), len(two[0].within)) and (
            one[0].within[common] == two[0].within[common]
        ):
            common += 1
    return _words(one, common), _words(two, common)


def _place(source: Source) -> tuple[str, int, str]:
    return source.file, source.line, source.function


def _words(frames: list[Source], common: int) -> list[str]:
    found = [frame.text.strip() for frame in frames] + [frame.function for frame in frames[1:]]
    for place, frame in enumerate(frames):
        found += frame.within[common if place == 0 else 0 :]
    return found


def says(texts: list[str], words: re.Pattern[str]) -> bool:
    """Whether one of these words is in a text."""
    return any(words.search(text.lower()) for text in texts)
