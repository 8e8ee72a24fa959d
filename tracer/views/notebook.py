"""A graph that shows itself: in a notebook, the last line `tracer.build(trace)` is a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx

from tracer.errors import DotFailed
from tracer.graph import build as building
from tracer.tracefile import Trace
from tracer.views.svg import render

__all__ = ["PicturedGraph", "build"]


class PicturedGraph(nx.MultiDiGraph):
    """A `networkx.MultiDiGraph` with a picture of itself."""

    def svg(self, *, depth: int | None = None, parameter: str | None = None) -> str:
        """The picture as SVG text, folded until it fits a page: see `views.svg.render`."""
        return render(self, depth=depth, parameter=parameter)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows; None, and with it the plain text, where nothing can draw."""
        if not self.graph.get("view"):
            return None
        try:
            return self.svg()
        except DotFailed:
            return None


def build(
    trace: Trace | str | Path, *, step: int | None = None, call: int | None = None
) -> PicturedGraph:
    """The graph of one step's window: by default the first complete one, or else all calls.

    A `networkx.MultiDiGraph`, in which edges go the way the gradient flows; what its attributes
    mean stands in `docs/graph.md`. `step` picks another step, `call` a single backward call (the
    K-th recorded one, from 1; with `step` the K-th of its window).

    Raises:
        NothingRecorded: the trace holds no backward call.
        UnknownName: no such step or call.
    """
    graph: Any = building.build(trace, step=step, call=call, into=PicturedGraph())
    assert isinstance(graph, PicturedGraph)
    return graph
