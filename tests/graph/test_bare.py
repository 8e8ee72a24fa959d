"""A large graph is built bare: its picture is the one that the whole graph gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, deep, repeated
from tracer import columns
from tracer.graph import bare
from tracer.graph import fold as folding
from tracer.graph.alike import size
from tracer.graph.bare import build_for_picture
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.tracefile import load


def loop(path: Path) -> Path:
    """A cell with a parameter, and an activation without one, used forty times."""
    sketch = Sketch(path)
    net = sketch.module("Net", variable="net")
    cell = sketch.module("Cell", "cell", net)
    act = sketch.module("Act", "act", net)
    w = sketch.buffer("cell.w", (3,), cell)
    count = 40
    operations = [Op("SumBackward0", 9, saved={"self_sym_sizes": [3]})]
    edges = []
    for turn in range(count):
        here = len(operations)
        operations += [Op("TanhBackward0", 5, act), Op("MulBackward0", 6, cell)]
        edges += [(here - 1, here, Grad((3,), 0.5)), (here, here + 1, Grad((3,), float(turn)))]
    leaf = len(operations)
    operations.append(Op("AccumulateGrad", buffer=w))
    edges += [(2 * turn + 2, leaf, Grad((3,), 0.25)) for turn in range(count)]
    sketch.call(operations, edges)
    return sketch.close()


def contents(graph: nx.MultiDiGraph) -> tuple[object, ...]:
    return list(graph.nodes(data=True)), list(graph.edges(keys=True, data=True)), graph.graph


@pytest.mark.parametrize("depth", [None, 0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        repeated,
        lambda path: repeated(path, calls=20),
        lambda path: blocks(path, count=12),
        lambda path: deep(path, 300),
    ],
    ids=["three calls", "twenty calls", "twelve blocks", "a chain"],
)
def test_a_bare_graph_folds_as_the_whole_one_does(
    make: Callable[[Path], Path],
    depth: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bare, "LARGE", 0)
    with load(make(tmp_path / "hand.trace")) as trace:
        found, whole = build_for_picture(trace, depth=depth), build(trace)

    assert isinstance(found, bare.BareGraph)
    assert list(found) == list(whole)
    assert contents(fold(found, depth=depth)) == contents(fold(whole, depth=depth))


@pytest.mark.parametrize("depth", [None, 0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: repeated(path, calls=20),
        lambda path: blocks(path, count=12),
        lambda path: deep(path, 300),
        loop,
    ],
    ids=["twenty calls", "twelve blocks", "a chain", "a loop"],
)
def test_nodes_drawn_alike_as_one_fold_as_each_of_them_does(
    make: Callable[[Path], Path],
    depth: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bare, "LARGE", 0)
    monkeypatch.setattr(columns, "LARGE", 0)
    # Few enough that a loop of forty is many.
    for name, value in (("HOPELESS", 1), ("COMFORTABLE", 10), ("HARD_LIMIT", 14)):
        monkeypatch.setattr(folding, name, value)
    with load(make(tmp_path / "hand.trace")) as trace:
        found, whole = build_for_picture(trace, depth=depth), build(trace)

    assert size(found) == len(whole)
    assert contents(fold(found, depth=depth)) == contents(fold(whole, depth=depth))


def test_a_chain_is_one_node_with_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "LARGE", 0)
    monkeypatch.setattr(columns, "LARGE", 0)
    with load(deep(tmp_path / "deep.trace", 1000)) as trace:
        found = build_for_picture(trace)

    # The first multiplication, at which the call begins, and the others; leaf, root and buffer.
    assert list(found) == ["c1.n0", "c1.n1", "c1.n1000", "c1.r0", "b0"]
    assert found.nodes["c1.n1"]["times"] == 999
    within = found.edges["c1.n1", "c1.n1", 1]
    norm = 0.5 * 3**0.5
    assert (within["times"], within["norms"].ends) == (998, pytest.approx((norm, norm)))
    assert within["squares"] == pytest.approx(998 * norm**2)
    assert "times" not in found.edges["c1.n0", "c1.n1", 0]


def test_nodes_that_say_the_same_share_it_and_edges_look_up_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare, "LARGE", 100)
    with load(deep(tmp_path / "deep.trace", 300)) as trace:
        found, whole = build_for_picture(trace), build(trace)

    # The multiplications, the leaf, the root and the buffer.
    assert len({id(data) for _, data in found.nodes(data=True)}) == 4
    assert set(found.nodes["c1.n7"]) < set(whole.nodes["c1.n7"])
    edge, known = found.edges["c1.n7", "c1.n8", 7], whole.edges["c1.n7", "c1.n8", 7]
    assert {name: edge[name] for name in known} == known
    assert "fingerprint" not in edge


def test_a_small_graph_is_built_whole(tmp_path: Path) -> None:
    with load(deep(tmp_path / "deep.trace", 300)) as trace:
        assert not isinstance(build_for_picture(trace), bare.BareGraph)
