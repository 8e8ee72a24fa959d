"""`gradtrace check`: what is wrong with the gradients of a run, or worth a note."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from tracer.analysis.checks.case import Case
from tracer.analysis.checks.catalogue import chosen
from tracer.analysis.checks.run import Report, examine
from tracer.analysis.job import seen_from
from tracer.commands.console import progress, say_detail, say_troubles, wants_colour, write
from tracer.runfiles import Run, load_run
from tracer.version import __version__
from tracer.views.findings import document, findings_text
from tracer.views.json_text import json_text
from tracer.views.sarif import sarif
from tracer.views.terminal import Ink

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "traces",
        metavar="TRACE",
        nargs="+",
        help="files that `gradtrace trace` wrote; of a job of ranks any of them, or their folder",
    )
    parser.add_argument(
        "--select", type=_slugs, default=(), metavar="SLUG[,SLUG]", help="only these checks"
    )
    parser.add_argument(
        "--ignore", type=_slugs, default=(), metavar="SLUG[,SLUG]", help="all but these checks"
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="one JSON document instead of text")
    formats.add_argument(
        "--sarif", action="store_true", help="a SARIF 2.1.0 log, for code-review tools"
    )


def _slugs(text: str) -> tuple[str, ...]:
    return tuple(slug.strip() for slug in text.split(",") if slug.strip())


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 if anything is more than a note."""
    wanted = chosen(options.select, options.ignore)
    with ExitStack() as stack:
        runs = [stack.enter_context(load_run(name)) for name in options.traces]
        cases = [_case(one, name) for one, name in zip(runs, options.traces, strict=True)]
        for one, case in zip(runs, cases, strict=True):
            say_troubles(one)
            say_detail(case.trace)
        with progress("checking"):
            report = examine(cases, options.select, options.ignore)
        folder = cases[0].trace.info.cwd
    if options.sarif:
        log = sarif(report, wanted, __version__, folder, options.traces)
        print(json_text(log))
    elif options.json:
        print(json_text(document(report, options.traces)))
    else:
        write(findings_text(report, options.traces, Ink(wants_colour(sys.stdout))), sys.stdout)
    return exit_code(report)


def _case(run: Run, name: str) -> Case:
    return Case(seen_from(run, name), run.ranks)


def exit_code(report: Report) -> int:
    return 0 if report.is_clean else 1
