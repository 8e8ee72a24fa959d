"""Every attribute of a graph is documented, in one place, and the docs are made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, repeated
from tests.graph.test_replicas import two_replicas
from tracer.graph.attributes import as_markdown, undocumented
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.slice import between

DOCS = Path(__file__).parents[2] / "docs" / "graph.md"
BEGIN, END = "<!-- attributes: made by tests/graph/test_attributes.py -->\n", "<!-- end -->\n"


@pytest.mark.parametrize("make", [repeated, blocks, two_replicas])
@pytest.mark.parametrize("depth", [None, 0, 1, 9])
def test_no_attribute_is_undocumented(tmp_path: Path, make: object, depth: int | None) -> None:
    graph = build(make(tmp_path / "t.trace"))  # type: ignore[operator]

    assert undocumented(graph) == []
    assert undocumented(fold(graph, depth=depth)) == []


def test_slices_and_captures_are_documented_too(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    sketch.call([Op("SumBackward0")], [], grad=True, captures={0: Grad((2,))})
    graph = build(sketch.close())
    assert undocumented(graph) == []
    assert undocumented(fold(graph)) == []

    part = between(build(blocks(tmp_path / "u.trace")), "blocks.1.layer.weight")
    assert undocumented(part) == []
    assert undocumented(fold(part, depth=1)) == []


def test_an_attribute_that_nobody_documented_is_found(tmp_path: Path) -> None:
    graph = build(repeated(tmp_path / "t.trace"))
    graph.nodes["b0"]["colour"] = "green"
    graph.nodes["c1.r0"]["fan_in"] = 3

    assert undocumented(graph) == ["node root.fan_in", "node buffer.colour"]


def test_the_docs_hold_the_table(request: pytest.FixtureRequest) -> None:
    head, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    expected = f"{head}{BEGIN}{as_markdown()}{END}{tail}"
    if request.config.getoption("--rewrite-golden", default=False):
        DOCS.write_text(expected, encoding="utf-8")

    assert DOCS.read_text(encoding="utf-8") == expected, "run pytest --rewrite-golden"
