"""A large graph is built bare: its picture is the one that the whole graph gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest

from tests.graph.sketch import blocks, deep, repeated
from tracer.graph import bare
from tracer.graph.bare import build_for_picture
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.tracefile import load


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
        found, whole = build_for_picture(trace), build(trace)

    assert isinstance(found, bare.BareGraph)
    assert list(found) == list(whole)
    assert contents(fold(found, depth=depth)) == contents(fold(whole, depth=depth))


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
