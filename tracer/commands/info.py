"""`gradtrace info`: say what is in a trace."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from tracer.analysis.contents import Contents, contents_of
from tracer.commands.console import wants_colour, write
from tracer.tracefile import load
from tracer.views.terminal import Ink, contents_text

__all__ = ["SCHEMA", "add_options", "run"]

SCHEMA = 1
"""Of the JSON document; goes up when a key changes its meaning or goes away."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a file that `gradtrace trace` wrote")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")


def run(options: argparse.Namespace) -> int:
    """Print the table or the document."""
    with load(options.trace) as trace:
        contents = contents_of(trace)
    if options.json:
        print(json.dumps(document(contents), indent=2))
    else:
        write(contents_text(contents, options.trace, Ink(wants_colour(sys.stdout))), sys.stdout)
    return 0


def document(contents: Contents) -> dict[str, object]:
    return {"schema": SCHEMA, **asdict(contents)}
