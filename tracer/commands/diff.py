"""`gradtrace diff`: two runs of one model, or two steps of one run, compared."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from tracer.analysis.diff.difference import Difference, compare
from tracer.analysis.diff.sides import Side
from tracer.analysis.job import seen_from
from tracer.commands.console import progress, say_detail, say_troubles, wants_colour, write
from tracer.commands.explain import TRACE
from tracer.commands.graph import save
from tracer.commands.values import option, parse_count
from tracer.errors import WrongUse
from tracer.runfiles import load_run
from tracer.views.diff import difference_text
from tracer.views.diff_json import difference_document
from tracer.views.diff_svg import difference_svg
from tracer.views.json_text import json_text
from tracer.views.terminal import Ink, bytes_text, printable

__all__ = ["add_options", "run"]

DIFFERENT = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="TRACE", help=TRACE)
    parser.add_argument(
        "b", metavar="TRACE", nargs="?",
        help="the trace to compare it with; without one, two steps of the first: --step 3 --step 7",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=option(parse_count), action="append", default=[], metavar="N",
        help="this optimizer step of both; given twice, that of the first and that of the second",
    )  # fmt: skip
    parser.add_argument(
        "--parameter", metavar="NAME", help="only this one; the end of its name is enough"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of text")
    form.add_argument(
        "--svg", action="store_true",
        help="draw one parameter in both, from the loss to the update, side by side",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help="where to draw (default: an .svg here, named after the traces)",
    )  # fmt: skip
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 if there is a difference"
    )


def run(options: argparse.Namespace) -> int:
    """Print what the two have in common and where they part."""
    if options.output and not options.svg:
        raise WrongUse("wrong-use", f"-o {options.output}: only --svg writes a file")
    steps = _steps(options)
    with ExitStack() as stack:
        sides = []
        for path, step in zip((options.a, options.b or options.a), steps, strict=True):
            run = stack.enter_context(load_run(path))
            say_troubles(run)
            label = _label(path, step, is_one=options.b is None)
            say_detail(seen_from(run, path))
            sides.append(Side(seen_from(run, path), label, step, run.ranks))
        with progress("comparing"):
            found = compare(sides[0], sides[1], options.parameter)
        if options.svg:
            text = _drawn(found, options)
        elif options.json:
            text = json_text(difference_document(found)) + "\n"
        else:
            text = difference_text(found, Ink(wants_colour(sys.stdout)))
    write(text, sys.stdout)
    return DIFFERENT if options.exit_code and not found.is_none else 0


def _drawn(found: Difference, options: argparse.Namespace) -> str:
    """Draw, and say where."""
    stems = [side.trace.path.stem for side in (found.a, found.b)]
    output = Path(options.output or f"{'-'.join(dict.fromkeys(stems))}-diff.svg")
    with progress(f"drawing {output.name}"):
        text = difference_svg(found)
    save(text, output)
    return f"{printable(f'wrote {output} ({bytes_text(output.stat().st_size)})')}\n"


def _steps(options: argparse.Namespace) -> tuple[int | None, int | None]:
    """The step of each side, None for all that both have."""
    steps = options.step
    if len(steps) > 2:
        raise WrongUse("wrong-use", f"--step was given {len(steps)} times, expected at most 2")
    if options.b is None and len(steps) < 2:
        raise WrongUse(
            "wrong-use",
            "one trace and not two steps of it: give a second trace, or --step twice",
        )
    if not steps:
        return None, None
    return steps[0], steps[-1]


def _label(path: str, step: int | None, *, is_one: bool) -> str:
    return f"{path} step {step}" if is_one else path
