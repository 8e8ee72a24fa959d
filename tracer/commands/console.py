"""Speaking to the person at the terminal: lines and progress on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from tracer.analysis.job import job_of
from tracer.runfiles import Run
from tracer.tracefile import Trace
from tracer.views.ranks import job_troubles

__all__ = ["progress", "say", "say_detail", "say_troubles", "tell", "wants_colour", "write"]


def say(line: str) -> None:
    """One line that tells a user something, on standard error."""
    tell(f"gradtrace: {line}\n")


def say_detail(trace: Trace) -> None:
    """Tell of a trace what was left out when it was recorded."""
    detail = trace.info.options.get("detail")
    if detail == "buffers":
        say(f"{trace.path.name}: --detail buffers measured only what is in .grad, and at the roots")
    elif detail == "structure":
        say(f"{trace.path.name}: --detail structure measured no gradient, only its shape is known")


def say_troubles(run: Run) -> None:
    """Tell of a job which ranks are not whole, where the answer itself has no place for it."""
    for line in job_troubles(job_of(run)):
        say(line)


def tell(text: str) -> None:
    """Text on standard error; on one that is closed, nothing."""
    stream = sys.__stderr__
    if stream is None or stream.closed:
        return
    with suppress(OSError):  # nobody reads it any more, and there is no other place to say so
        write(text, stream)


def write(text: str, stream: TextIO) -> None:
    """Write whatever the stream's encoding can take, the rest escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def wants_colour(stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a terminal whose user did not ask for plain text (https://no-color.org)."""
    plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb"
    return stream is not None and not stream.closed and stream.isatty() and not plain


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say what takes long, on a terminal only, and wipe it off when it is done."""
    stream = sys.__stderr__
    if stream is None or stream.closed or not stream.isatty():
        yield
        return
    tell(f"{what} ...")
    try:
        yield
    finally:
        tell("\r" + " " * (len(what) + 4) + "\r")
