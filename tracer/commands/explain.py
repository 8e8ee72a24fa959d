"""`gradtrace explain`: why a gradient has the size it has."""

from __future__ import annotations

import argparse
import json
import sys

from tracer.analysis.explain import Explainer
from tracer.commands.console import wants_colour, write
from tracer.commands.values import option, parse_count
from tracer.tracefile import load
from tracer.views.explain import explanation_text, overview_text
from tracer.views.explain_json import explanation_document, overview_document
from tracer.views.terminal import Ink

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a file that `gradtrace trace` wrote")
    parser.add_argument(
        "parameter", metavar="PARAMETER", nargs="?",
        help="its name, or the end of it (default: the answers for the run)",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=option(parse_count), metavar="N",
        help="this optimizer step (default: the first that was recorded whole)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(options: argparse.Namespace) -> int:
    """Print the answer or the document."""
    with load(options.trace) as trace:
        explainer = Explainer(trace)
        ink = Ink(wants_colour(sys.stdout))
        if options.parameter is None:
            overview = explainer.overview(options.step)
            if options.json:
                print(json.dumps(overview_document(overview, trace), indent=2))
                return 0
            text = overview_text(overview, trace, ink)
        else:
            found = explainer.parameter(options.parameter, options.step)
            if options.json:
                print(json.dumps(explanation_document(found, trace), indent=2))
                return 0
            text = explanation_text(found, trace, ink)
    write(text, sys.stdout)
    return 0
