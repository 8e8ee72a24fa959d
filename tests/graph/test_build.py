"""The full graph says what the trace holds: who sent what to whom, and what it met there."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, repeated
from tracer.errors import NothingRecorded, UnknownName
from tracer.graph.build import build
from tracer.tracefile import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hand.trace"


def test_three_calls_meet_in_one_buffer(path: Path) -> None:
    graph = build(repeated(path))

    assert sorted(graph.predecessors("b0")) == ["c1.n2", "c2.n2", "c3.n2"]
    assert graph.nodes["b0"]["runs"] == (3,)
    assert graph.nodes["b0"]["history"] == ((1.0,), (2.0,), (3.0,))
    assert graph.nodes["b0"]["values"] == (3.0,)


def test_gradients_flow_from_the_root_to_the_buffer(path: Path) -> None:
    graph = build(repeated(path, calls=1))

    assert nx.shortest_path(graph, "c1.r0", "b0") == ["c1.r0", "c1.n0", "c1.n1", "c1.n2", "b0"]
    kinds = [graph.edges[u, v, k]["kind"] for u, v, k in graph.edges(keys=True)]
    assert sorted(kinds) == ["accumulation", "contribution", "contribution", "start"]


def test_an_edge_carries_its_measurements_and_the_effect_of_its_sender(path: Path) -> None:
    graph = build(repeated(path, calls=1))

    edge = graph.edges["c1.n0", "c1.n1", 0]
    assert edge["shape"] == (4, 1)
    assert edge["elements"] == 4
    assert (edge["sum"], edge["norm"], edge["largest"]) == (1.0, 0.5, 0.25)
    assert edge["values"] == (0.25,) * 4
    assert (edge["effect"], edge["factor"], edge["count"]) == ("averages", 0.25, 4)
    assert graph.edges["c1.n1", "c1.n2", 1]["summed"] == 4


def test_a_buffer_that_was_emptied_between_calls_adds_nothing_up(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    for _ in range(2):
        sketch.call(
            [Op("SumBackward0"), Op("AccumulateGrad", buffer=w)],
            [(0, 1, Grad((1,)))],
            after={w: Grad((1,))},
        )
    graph = build(sketch.close())

    assert graph.nodes["b0"]["runs"] == (1, 1)
    assert all(data["is_fresh"] for *_, data in graph.in_edges("b0", data=True))


def test_a_buffer_of_zeros_counts_as_empty(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    sketch.call(
        [Op("SumBackward0"), Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((1,)))],
        before={w: Grad((1,), 0.0)},
        after={w: Grad((1,))},
    )
    graph = build(sketch.close())

    assert graph.edges["c1.n1", "b0", 1]["is_fresh"]


def test_a_node_knows_its_line_its_module_and_what_meets_there(path: Path) -> None:
    graph = build(blocks(path), call=1)

    add = graph.nodes["c1.n4"]
    assert (add["name"], add["file"], add["line"]) == ("AddBackward0", "train.py", 12)
    assert (add["root"], add["module"], add["module_class"]) == ("model", "blocks.2", "Block")
    assert add["fan_in"] == 2
    assert add["received"][0]["norm"] == pytest.approx(0.25 * 24**0.5)
    assert add["saved"] == {"alpha": 1}


def test_by_default_the_window_of_the_first_complete_step_is_shown(path: Path) -> None:
    graph = build(blocks(path, calls=3))

    assert graph.graph["step"] == 1
    assert graph.graph["calls"] == (1, 2, 3)
    step = next(key for key, data in graph.nodes(data=True) if data["kind"] == "step")
    assert graph.in_degree(step) == 4
    assert graph.nodes[step]["options"] == ({"lr": 0.1, "betas": (0.9, 0.99)},)


def test_one_call_can_be_asked_for(path: Path) -> None:
    graph = build(repeated(path), call=2)

    assert graph.graph["calls"] == (2,)
    assert list(graph.predecessors("b0")) == ["c2.n2"]
    assert not graph.edges["c2.n2", "b0", 2]["is_fresh"]


def test_what_autograd_grad_returned_is_a_node_of_its_own(path: Path) -> None:
    sketch = Sketch(path)
    sketch.call(
        [Op("SumBackward0"), Op("MulBackward0")],
        [(0, 1, Grad((2,)))],
        grad=True,
        captures={1: Grad((2,), 3.0)},
    )
    graph = build(sketch.close())

    assert graph.nodes["c1.g0"]["kind"] == "capture"
    assert graph.edges["c1.n1", "c1.g0", 0]["values"] == (3.0, 3.0)


def test_ten_thousand_calls_without_a_step_are_cut_short_and_it_is_said(path: Path) -> None:
    graph = build(repeated(path, calls=100))

    assert graph.graph["calls"] == tuple(range(1, 25))
    assert graph.graph["note"] == "the first 24 of 100 backward calls"


def test_a_trace_that_is_already_open_is_left_open(path: Path) -> None:
    with load(repeated(path)) as trace:
        build(trace)

        assert len(trace.calls) == 3


def test_an_empty_trace_says_so(path: Path) -> None:
    with pytest.raises(NothingRecorded, match="holds no backward call"):
        build(Sketch(path).close())


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"call": 4}, "no backward call 4 in this trace: there are 3, counted from 1"),
        ({"step": 7}, "no backward call of step 7 was recorded; recorded are those of 1"),
        ({"step": 1, "call": 9}, "no backward call 9 in the window of step 1: there are 3"),
    ],
)
def test_a_call_or_step_that_is_not_there_is_named(
    path: Path, wish: dict[str, int], message: str
) -> None:
    with pytest.raises(UnknownName, match=message):
        build(repeated(path), **wish)
