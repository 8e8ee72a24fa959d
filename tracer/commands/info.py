"""`gradtrace info`: say what is in a trace."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from tracer.analysis.contents import Contents, contents_of
from tracer.analysis.job import Job, job_of, seen_from
from tracer.commands.console import wants_colour, write
from tracer.runfiles import load_run
from tracer.views.json_text import json_text
from tracer.views.ranks import job_document, job_text
from tracer.views.terminal import Ink, contents_text

__all__ = ["SCHEMA", "add_options", "run"]

SCHEMA = 1
"""Of the JSON document; goes up when a key changes its meaning or goes away."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a file that `gradtrace trace` wrote")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")


def run(options: argparse.Namespace) -> int:
    """Print the table or the document."""
    with load_run(options.trace) as traces:
        shown = seen_from(traces, options.trace)
        contents, job = contents_of(shown), job_of(traces)
    if options.json:
        print(json_text(document(contents, job)))
        return 0
    ink = Ink(wants_colour(sys.stdout))
    head = job_text(job, ink)
    text = contents_text(contents, str(shown.path), ink)
    write(f"{head}\n{text}" if head else text, sys.stdout)
    return 0


def document(contents: Contents, job: Job) -> dict[str, object]:
    return {"schema": SCHEMA, **asdict(contents), "job": job_document(job)}
