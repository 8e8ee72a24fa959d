"""A graph shows itself."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import repeated
from tracer.views.notebook import PicturedGraph, build


def test_a_built_graph_is_a_picture_in_a_notebook(tmp_path: Path) -> None:
    graph = build(repeated(tmp_path / "t.trace"))

    assert isinstance(graph, nx.MultiDiGraph)
    picture = graph._repr_svg_()
    assert picture is not None
    assert "Σ  3 calls" in picture
    assert graph.svg(parameter="w").startswith("<svg ")


def test_without_a_layout_program_a_notebook_shows_the_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build(repeated(tmp_path / "t.trace"))
    monkeypatch.setenv("GRADTRACE_DOT", "/nowhere/dot")

    assert graph._repr_svg_() is None


def test_parts_and_copies_are_graphs_like_any_other(tmp_path: Path) -> None:
    graph = build(repeated(tmp_path / "t.trace"))

    assert isinstance(graph.copy(), PicturedGraph)
    assert nx.is_directed_acyclic_graph(graph.reverse())
    assert PicturedGraph()._repr_svg_() is None
