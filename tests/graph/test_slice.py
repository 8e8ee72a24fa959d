"""A slice is what lies between the roots and one parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph.sketch import blocks
from tracer.errors import UnknownName
from tracer.graph.build import build
from tracer.graph.slice import between


def test_only_what_the_gradient_passes_is_kept(tmp_path: Path) -> None:
    graph = build(blocks(tmp_path / "t.trace", count=4, calls=1))
    part = between(graph, "blocks.2.layer.weight")

    buffers = [data["name"] for _, data in part.nodes(data=True) if data["kind"] == "buffer"]
    assert buffers == ["blocks.2.layer.weight"]
    assert part.graph["parameter"] == "blocks.2.layer.weight"
    assert {d["module"] for _, d in part.nodes(data=True) if d.get("module")} == {
        "blocks.2",
        "blocks.2.layer",
        "blocks.3",
        "blocks.3.layer",
    }
    assert [d["kind"] for _, d in part.nodes(data=True)].count("step") == 1


def test_nodes_keep_their_order(tmp_path: Path) -> None:
    graph = build(blocks(tmp_path / "t.trace", count=8))
    part = between(graph, "blocks.0.layer.weight")

    assert list(part) == [key for key in graph if key in part]


def test_an_unknown_parameter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no parameter is called 'nope'"):
        between(build(blocks(tmp_path / "t.trace")), "nope")
