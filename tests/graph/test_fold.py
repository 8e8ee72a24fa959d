"""A folded graph is small enough to read, and still says where things are added."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, repeated
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.slice import between


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hand.trace"


def boxes(graph: nx.MultiDiGraph, kind: str) -> list[str]:
    return [key for key, data in graph.nodes(data=True) if data["kind"] == kind]


def test_the_calls_of_a_small_graph_stand_side_by_side(path: Path) -> None:
    folded = fold(build(repeated(path)))

    assert len(boxes(folded, "root")) == 3
    assert boxes(folded, "buffer") == ["b0"]
    assert folded.in_degree("b0") == 3
    assert folded.nodes["b0"]["summed_calls"] == (3, 3)


def test_calls_with_the_same_graph_lie_on_one_another_when_there_are_many(path: Path) -> None:
    folded = fold(build(repeated(path, calls=20)))

    assert len(boxes(folded, "root")) == 1
    assert folded.nodes["c1.n0"]["calls"] == tuple(range(1, 21))
    assert folded.edges["c1.n1", "b0", 0]["count"] == 20
    assert folded.nodes["b0"]["summed_calls"] == (20, 20)


def test_equal_blocks_are_one(path: Path) -> None:
    folded = fold(build(blocks(path, count=12)), depth=3)

    layer = folded.nodes["module:model.blocks.[0-11].layer"]
    assert layer["copies"] == 12
    assert layer["nodes"] == 24
    assert layer["module_class"] == "Linear"
    leaf = folded.nodes["leaf:model.blocks.[0-11].layer"]
    assert leaf["nodes"] == 12
    assert leaf["summed_calls"] == (2, 2)


def test_the_edge_from_one_of_the_equal_blocks_to_the_next_is_not_a_loop(path: Path) -> None:
    folded = fold(build(blocks(path, count=12)), depth=2)

    assert boxes(folded, "module") == ["module:model.blocks.[0-11]"]
    assert nx.is_directed_acyclic_graph(folded)


def test_depth_says_how_far_modules_are_opened(path: Path) -> None:
    graph = build(blocks(path, count=3))

    assert boxes(fold(graph, depth=0), "module") == ["module:model"]
    assert boxes(fold(graph, depth=1), "module") == ["module:model.blocks"]
    assert fold(graph, depth=0).nodes["module:model"]["module_class"] == "Net"
    assert boxes(fold(graph, depth=9), "module") == []


def test_an_opened_module_is_a_cluster_with_its_class(path: Path) -> None:
    folded = fold(build(blocks(path, count=3)), depth=2)

    assert [(c["path"], c["module_class"], c["copies"]) for c in folded.graph["clusters"]] == [
        (("model",), "Net", 1),
        (("model", "blocks"), "", 1),
    ]


def test_nothing_is_lost_by_folding(path: Path) -> None:
    graph = build(blocks(path, count=5))
    nodes = [
        key
        for key, data in graph.nodes(data=True)
        if data["kind"] != "step" and data.get("name") != "AccumulateGrad"
    ]
    for depth in (None, 0, 1, 2, 3, 4):
        folded = fold(graph, depth=depth)
        assert sum(data["nodes"] for _, data in folded.nodes(data=True)) == len(nodes)


@pytest.mark.parametrize("limit", [5, 8, 12, 20])
def test_the_limit_is_kept(path: Path, limit: int) -> None:
    assert len(fold(build(blocks(path, count=30)), limit=limit)) <= limit


def test_a_thousand_terms_of_one_line_are_one_operation(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    operations = [Op("SumBackward0", 3)]
    sent = []
    for number in range(1000):
        operations.append(Op("PowBackward0", 5, saved={"exponent": 2}))
        sent.append(((0, number), number + 1, Grad((1,), number + 1.0)))
        sent.append((number + 1, 1001, Grad((1,))))
    operations.append(Op("AccumulateGrad", buffer=w))
    sketch.call(operations, sent)
    folded = fold(build(sketch.close()))

    assert len(folded) <= 5
    assert folded.nodes["b0"]["fan_in"] == 1000


def test_a_wide_fan_of_different_lines_is_thinned(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    operations = [Op("CatBackward0", 3)]
    sent = []
    for number in range(40):
        operations.append(Op("MeanBackward0", 100 + number, saved={"self_numel": number + 2}))
        sent.append(((0, number), number + 1, Grad((), number + 1.0)))
        sent.append((number + 1, 41, Grad((1,), number + 1.0)))
    operations.append(Op("AccumulateGrad", buffer=w))
    sketch.call(operations, sent)
    folded = fold(build(sketch.close()))

    more = boxes(folded, "more")
    assert len(more) == 1
    assert folded.nodes[more[0]]["merged"] == 30
    largest = [key for key in folded.predecessors("b0") if key not in more]
    assert {f"c1.n{number}" for number in range(31, 41)} == set(largest)


def test_a_parameter_that_two_modules_use_is_drawn_at_both(path: Path) -> None:
    sketch = Sketch(path)
    root = sketch.module("Net", variable="net")
    first, second = (sketch.module("Linear", name, root) for name in ("first", "second"))
    w = sketch.buffer("first.weight", (2, 2), first)
    sketch.call(
        [
            Op("MeanBackward0", 9, saved={"self_numel": 4}),
            Op("MmBackward0", 5, second),
            Op("MmBackward0", 4, first),
            Op("AccumulateGrad", buffer=w),
        ],
        [
            (0, 1, Grad((2, 2), 0.25)),
            (1, 2, Grad((2, 2))),
            ((1, 1), 3, Grad((2, 2))),
            ((2, 1), 3, Grad((2, 2))),
        ],
    )
    folded = fold(build(sketch.close()), depth=1)

    assert folded.nodes["leaf:net.first"]["fan_in"] == 2
    assert list(folded.predecessors("leaf:net.first")) == ["module:net.first"]
    proxy = "leaf:net.first@module:net.second"
    assert folded.nodes[proxy]["of"] == "leaf:net.first"
    assert list(folded.predecessors(proxy)) == ["module:net.second"]


def test_operations_that_follow_one_another_are_parts_of_one_node(path: Path) -> None:
    folded = fold(build(blocks(path, count=30, calls=1)))
    graph = build(_chain(path.with_name("chain.trace")))
    loss = fold(graph, depth=0).nodes["c1.n0"]

    assert [part["name"] for part in loss["parts"]] == ["DivBackward0", "MeanBackward0"]
    assert len(folded) < 20


def _chain(path: Path) -> Path:
    sketch = Sketch(path)
    root = sketch.module("Linear", variable="net")
    w = sketch.buffer("weight", (2, 2), root)
    sketch.call(
        [
            Op("DivBackward0", 9, saved={"other": 4.0}),
            Op("MeanBackward0", 8),
            Op("MmBackward0", 4, root),
            Op("AccumulateGrad", buffer=w),
        ],
        [(0, 1, Grad((), 0.25)), (1, 2, Grad((2, 2), 1 / 16)), ((2, 1), 3, Grad((2, 2)))],
    )
    return sketch.close()


def test_an_activation_that_serves_a_block_stands_where_it_is_used(path: Path) -> None:
    sketch = Sketch(path)
    root = sketch.module("Block", variable="block")
    relu = sketch.module("ReLU", "relu", root)
    layers = [sketch.module("Linear", f"fc{n}", root) for n in range(2)]
    w = sketch.buffer("fc0.weight", (2, 2), layers[0])
    sketch.call(
        [
            Op("ReluBackward0", 7, relu),
            Op("MmBackward0", 6, layers[1]),
            Op("ReluBackward0", 5, relu),
            Op("MmBackward0", 4, layers[0]),
            Op("AccumulateGrad", buffer=w),
        ],
        [(n, n + 1, Grad((2, 2))) for n in range(3)] + [((3, 1), 4, Grad((2, 2)))],
        root=Grad((2, 2)),
    )
    folded = fold(build(sketch.close()), depth=1)

    uses = [data["use"] for _, data in folded.nodes(data=True) if data["kind"] == "module"]
    assert uses == [1, None, 2, None]
    assert nx.is_directed_acyclic_graph(folded)


def test_a_slice_is_opened_around_its_parameter_only(path: Path) -> None:
    part = between(build(blocks(path, count=30)), "blocks.3.layer.weight")
    folded = fold(part, skip=1)

    assert boxes(folded, "module") == [
        "module:model.blocks.[4-29]",
        "module:model.blocks.3.layer",
    ]
    assert folded.graph["fold"] == "opened around the parameter"


def test_many_models_are_one_in_the_end(path: Path) -> None:
    sketch = Sketch(path)
    for number in range(40):
        root = sketch.module("Net", variable=f"net{number}")
        sketch.call([Op(f"Op{number}Backward", number + 1, root)], [], line=number + 1)
    folded = fold(build(sketch.close(), step=1), limit=3)

    assert len(folded) == 2
    assert folded.graph["fold"] == "everything together"
