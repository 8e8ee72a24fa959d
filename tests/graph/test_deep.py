"""A graph of 100,000 nodes in a row is built, folded and drawn: nothing recurses."""

from __future__ import annotations

from pathlib import Path

from tests.graph.sketch import deep
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.slice import between
from tracer.views.svg import render

NODES = 100_000


def test_a_hundred_thousand_nodes_in_a_row(tmp_path: Path) -> None:
    graph = build(deep(tmp_path / "deep.trace", NODES))
    assert len(graph) == NODES + 3

    folded = fold(graph)
    assert len(folded) == 3
    assert folded.nodes["c1.n0"]["nodes"] == NODES

    assert len(between(graph, "w")) == NODES + 3
    assert f"Mul × {NODES:,}" in render(folded)
