"""A graph comes back from JSON and GraphML as it was; DOT is read by Graphviz."""

from __future__ import annotations

import json
import math
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, repeated
from tracer.graph.build import build
from tracer.graph.export import from_graphml, from_json, to_dot, to_graphml, to_json
from tracer.graph.fold import fold
from tracer.views.layout import find_program

HOSTILE = "w\"<script>alert('x')</script>\\ & ]]>\n\x00\u202e" + "long" * 2500


@pytest.fixture(params=["full", "folded"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> nx.MultiDiGraph:
    full = build(blocks(tmp_path / "t.trace", count=5))
    return full if request.param == "full" else fold(full, depth=2)


def hostile(path: Path) -> nx.MultiDiGraph:
    """A graph whose names are as bad as names can be."""
    sketch = Sketch(path, script=f"/tmp/{HOSTILE}.py")
    root = sketch.module(HOSTILE, variable=HOSTILE)
    w = sketch.buffer(f"{HOSTILE}.weight", module=root)
    sketch.call(
        [Op(HOSTILE, 3, root, called=HOSTILE, custom=HOSTILE), Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((1,), math.nan))],
        name=HOSTILE,
    )
    return build(sketch.close())


def known(data: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if value is not None}


def test_json_brings_everything_back(graph: nx.MultiDiGraph) -> None:
    again = from_json(to_json(graph))

    assert again.graph == graph.graph
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(again.edges(keys=True, data=True)) == list(graph.edges(keys=True, data=True))


def test_graphml_brings_back_everything_but_none(graph: nx.MultiDiGraph) -> None:
    again = from_graphml(to_graphml(graph))

    assert again.graph == known(graph.graph)
    nodes = {key: known(data) for key, data in graph.nodes(data=True)}
    assert dict(again.nodes(data=True)) == nodes
    edges = [(u, v, known(data)) for u, v, data in graph.edges(data=True)]
    assert list(again.edges(data=True)) == edges


def test_dot_is_read_back_by_graphviz(graph: nx.MultiDiGraph) -> None:
    objects, edges = dot_document(to_dot(graph))

    assert [item["name"] for item in objects] == list(graph)
    assert len(edges) == graph.number_of_edges()
    for item, (_, data) in zip(objects, graph.nodes(data=True), strict=True):
        assert item["kind"] == data["kind"]


def dot_document(source: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    done = subprocess.run(
        [find_program(), "-Kdot", "-Tjson0"], input=source.encode(), capture_output=True, check=True
    )
    document = json.loads(done.stdout)
    return document.get("objects", []), document.get("edges", [])


def test_hostile_names_survive_json(tmp_path: Path) -> None:
    graph = hostile(tmp_path / "t.trace")
    again = from_json(to_json(graph))

    assert again.nodes["c1.n0"]["name"] == HOSTILE
    assert again.nodes["b0"]["name"] == f"{HOSTILE}.weight"
    assert math.isnan(again.edges["c1.n0", "c1.n1", 0]["norm"])


def test_json_has_no_numbers_that_json_forbids(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(to_json(hostile(tmp_path / "t.trace")), parse_constant=refuse)


def test_hostile_names_make_valid_xml(tmp_path: Path) -> None:
    text = to_graphml(hostile(tmp_path / "t.trace"))
    ET.fromstring(text)

    name = from_graphml(text).nodes["c1.n0"]["name"]
    assert name == HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd")


def test_hostile_names_make_valid_dot(tmp_path: Path) -> None:
    objects, _ = dot_document(to_dot(hostile(tmp_path / "t.trace")))

    assert len(objects) == 4
    assert all(item["name"].startswith(("c1.", "b0")) for item in objects)


def test_complex_sums_come_back(tmp_path: Path) -> None:
    graph = build(repeated(tmp_path / "t.trace"))
    graph.edges["c1.n0", "c1.n1", 0]["sum"] = complex(1.5, math.inf)

    for again in (from_json(to_json(graph)), from_graphml(to_graphml(graph))):
        assert again.edges["c1.n0", "c1.n1", 0]["sum"] == complex(1.5, math.inf)
