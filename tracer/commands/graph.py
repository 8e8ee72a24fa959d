"""`gradtrace graph`: draw or export the graph of a trace, or a part of it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

from tracer.analysis.explain import Explainer
from tracer.analysis.job import seen_from
from tracer.commands.console import progress, say_detail, say_troubles, write
from tracer.commands.values import option, parse_count, parse_whole
from tracer.errors import WrongUse
from tracer.graph import export
from tracer.graph.alike import size
from tracer.graph.bare import build_for_picture
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.slice import between
from tracer.runfiles import load_run
from tracer.tracefile import Trace
from tracer.views import dot, svg
from tracer.views.meeting import draw_meetings
from tracer.views.terminal import bytes_text, printable

__all__ = ["FORMATS", "Wish", "add_options", "draw", "run", "save"]

Ranks = Mapping[int, Trace] | None

MOST_NODES = 20_000
"""Nodes of a graph up to which the other ranks are drawn: all ledgers are needed for it."""


@dataclass(frozen=True)
class Wish:
    """Which part of the graph is wanted, and how deep."""

    depth: int | None = None
    parameter: str | None = None
    backward: int | None = None
    step: int | None = None

    @property
    def suffix(self) -> str:
        """What tells the file of this part from that of the whole."""
        parts = [
            self.parameter,
            f"step{self.step}" if self.step is not None else None,
            f"backward{self.backward}" if self.backward is not None else None,
            f"depth{self.depth}" if self.depth is not None else None,
        ]
        return "".join(f"-{re.sub('[^A-Za-z0-9_.]', '_', part)}" for part in parts if part)[:100]

    def graph(self, trace: Trace) -> nx.MultiDiGraph[str]:
        """The part, not folded."""
        graph = build(trace, step=self.step, call=self.backward)
        return graph if self.parameter is None else between(graph, self.parameter)

    def picture(self, trace: Trace) -> nx.MultiDiGraph[str]:
        """The part, with what a picture of it needs."""
        if self.parameter is not None:
            return self.graph(trace)
        return build_for_picture(trace, step=self.step, call=self.backward, depth=self.depth)


def as_svg(trace: Trace, wish: Wish, ranks: Ranks) -> str:
    graph = wish.picture(trace)
    return svg.render(graph, depth=wish.depth, finish=_with_ranks(trace, wish, ranks, graph))


def as_dot(trace: Trace, wish: Wish, ranks: Ranks) -> str:
    graph = wish.picture(trace)
    folded = fold(graph, depth=wish.depth)
    _with_ranks(trace, wish, ranks, graph)(folded)
    return dot.source(folded)


def as_json(trace: Trace, wish: Wish, ranks: Ranks) -> str:
    return export.to_json(wish.graph(trace))


def as_graphml(trace: Trace, wish: Wish, ranks: Ranks) -> str:
    return export.to_graphml(wish.graph(trace))


def _with_ranks(
    trace: Trace, wish: Wish, ranks: Ranks, graph: nx.MultiDiGraph[str]
) -> Callable[[nx.MultiDiGraph[str]], None]:
    """Draws the other ranks into a folded picture, if it is of a job."""
    is_small = size(graph) <= MOST_NODES
    if trace.info.world < 2 or wish.backward is not None or not is_small or not trace.exchanges:
        return lambda folded: None
    explainer, step = Explainer(trace, ranks), graph.graph.get("step")
    return lambda folded: draw_meetings(folded, explainer, step)


FORMATS: Mapping[str, Callable[[Trace, Wish, Ranks], str]] = {
    ".svg": as_svg,
    ".dot": as_dot,
    ".graphml": as_graphml,
    ".json": as_json,
}
"""What `-o` can end in. SVG and DOT are folded until they can be read, the others hold it all.

Of a job of ranks the former show where the one that is drawn meets the others.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(FORMATS)
    parser.add_argument("trace", metavar="TRACE", help="a file that `gradtrace trace` wrote")
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help=f"where to write; the ending says what: {known} (default: an .svg here)",
    )  # fmt: skip
    parser.add_argument(
        "--depth", type=option(parse_whole), metavar="N",
        help="unfold N levels of modules; 0 is the whole model as one box",
    )  # fmt: skip
    parser.add_argument(
        "--parameter", metavar="NAME",
        help="only what leads to this parameter; the end of its name is enough",
    )  # fmt: skip
    parser.add_argument(
        "--backward", type=option(parse_count), metavar="K",
        help="only the Kth recorded backward call, from 1 on; with --step the Kth of its window",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=option(parse_count), metavar="S",
        help="this optimizer step (default: the first that was recorded whole)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Write one file and say which."""
    wish = Wish(options.depth, options.parameter, options.backward, options.step)
    with load_run(options.trace) as traces:
        trace = seen_from(traces, options.trace)
        say_troubles(traces)
        say_detail(trace)
        output = Path(options.output or f"{trace.path.stem}{wish.suffix}.svg")
        if output.suffix not in FORMATS:
            known = ", ".join(FORMATS)
            raise WrongUse("wrong-use", f"{output}: found {output.suffix!r}, expected {known}")
        draw(trace, wish, output, traces.ranks)
    line = f"wrote {output} ({bytes_text(output.stat().st_size)})"
    write(f"{printable(line)}\n", sys.stdout)
    return 0


def draw(trace: Trace, wish: Wish, output: Path, ranks: Ranks = None) -> None:
    """Write the part that is wanted, in the format that the name of the file asks for.

    `ranks` are the traces of all ranks of a job, of which `trace` is drawn.

    Raises:
        DotFailed, NothingRecorded, UnknownName: as `views.svg.render`.
        WrongUse: the file cannot be written.
    """
    with progress(f"drawing {output.name}"):
        text = FORMATS[output.suffix](trace, wish, ranks)
    save(text, output)


def save(text: str, output: Path) -> None:
    """Write a file, or say why that is not possible."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongUse(
            "wrong-use", f"{output}: cannot write there: {error.strerror}; choose another with -o"
        ) from error
