"""`gradtrace explain`: why a gradient has the size it has."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tracer.analysis.explain import Explainer, Explanation, explainer_of
from tracer.analysis.job import Job, job_of, seen_from
from tracer.commands.console import progress, say_detail, wants_colour, write
from tracer.commands.graph import Wish, save
from tracer.commands.values import option, parse_count
from tracer.errors import WrongUse
from tracer.runfiles import load_run
from tracer.tracefile import Trace
from tracer.views.explain import explanation_text, overview_text
from tracer.views.explain_json import explanation_document, overview_document
from tracer.views.explain_svg import explanation_svg
from tracer.views.json_text import json_text
from tracer.views.ranks import job_document, job_text
from tracer.views.terminal import Ink, bytes_text, printable

__all__ = ["TRACE", "add_options", "run"]

TRACE = "a file that `gradtrace trace` wrote; of a job of ranks any of them, or their folder"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help=TRACE)
    parser.add_argument(
        "parameter", metavar="PARAMETER", nargs="?",
        help="its name, or the end of it (default: the answers for the run)",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=option(parse_count), metavar="N",
        help="this optimizer step (default: the first that was recorded whole)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of text")
    form.add_argument(
        "--svg", action="store_true",
        help="draw what lies between the loss and PARAMETER, and what came after, with all factors",
    )  # fmt: skip
    parser.add_argument(
        "--terms", action="store_true",
        help="how much comes from each term of the loss, of a run recorded with `trace --terms`",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help="where to draw (default: an .svg here, named after the trace and the parameter)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Print the answer or the document, or draw."""
    if options.svg and options.parameter is None:
        raise WrongUse("wrong-use", "--svg draws one parameter: found none, expected PARAMETER")
    if options.output and not options.svg:
        raise WrongUse("wrong-use", f"-o {options.output}: only --svg writes a file")
    with load_run(options.trace) as traces:
        say_detail(seen_from(traces, options.trace))
        explainer, job = explainer_of(traces, options.trace), job_of(traces)
        if options.parameter is None:
            text = _of_run(explainer, job, options)
        else:
            text = _of_parameter(explainer, job, options)
    write(text, sys.stdout)
    return 0


def _of_run(explainer: Explainer, job: Job, options: argparse.Namespace) -> str:
    overview = explainer.overview(options.step)
    if options.json:
        return _as_json(overview_document(overview, explainer.trace), job)
    ink = Ink(wants_colour(sys.stdout))
    return _below(job, overview_text(overview, explainer.trace, ink, options.terms), ink)


def _of_parameter(explainer: Explainer, job: Job, options: argparse.Namespace) -> str:
    found = explainer.parameter(options.parameter, options.step)
    if options.json:
        return _as_json(explanation_document(found, explainer.trace), job)
    if options.svg:
        return _drawn(found[-1], explainer.trace, options.output)
    ink = Ink(wants_colour(sys.stdout))
    return _below(job, explanation_text(found, explainer.trace, ink, options.terms), ink)


def _below(job: Job, text: str, ink: Ink) -> str:
    """The text under what has to be said of the job."""
    head = job_text(job, ink)
    return f"{head}\n{text}" if head else text


def _as_json(document: dict[str, Any], job: Job) -> str:
    return json_text({**document, "job": job_document(job)}) + "\n"


def _drawn(one: Explanation, trace: Trace, wanted: str | None) -> str:
    """Draw one parameter's slice, and say where."""
    suffix = Wish(parameter=one.name, step=one.ledger.step.step if one.ledger.step else None).suffix
    output = Path(wanted or f"{trace.path.stem}{suffix}-explained.svg")
    with progress(f"drawing {output.name}"):
        text = explanation_svg(one, trace)
    save(text, output)
    return f"{printable(f'wrote {output} ({bytes_text(output.stat().st_size)})')}\n"
