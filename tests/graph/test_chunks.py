"""The chunks of a batch are read from shapes, and left out where these do not say."""

from __future__ import annotations

from pathlib import Path

from tests.graph.test_replicas import replicated
from tracer.graph.build import build
from tracer.graph.chunks import chunks_of, chunks_of_all


def test_chunks_add_up_to_the_whole_along_one_dimension() -> None:
    assert chunks_of([(3, 7), (3, 7), (2, 7)], [(8, 7)]) == (3, 3, 2)
    assert chunks_of([(7, 3), (7, 2)], [(7, 5)]) == (3, 2)


def test_scalars_are_gathered_as_a_vector() -> None:
    assert chunks_of([(), ()], [(2,)]) == (1, 1)


def test_a_single_part_is_no_chunk() -> None:
    assert chunks_of([(4, 2)], [(4, 2)]) is None


def test_parts_that_do_not_add_up_are_not_guessed_at() -> None:
    assert chunks_of([(2, 2), (2, 2)], [(6, 2)]) is None
    assert chunks_of([(2, 3), (2, 2)], [(4, 5)]) is None
    assert chunks_of([(2,), (2, 1)], [(4, 1)]) is None
    assert chunks_of([(2,), (2,)], []) is None


def test_gather_sends_chunks_and_scatter_receives_them(tmp_path: Path) -> None:
    path = replicated(tmp_path / "t.trace", layers=1, chunks=(3, 3, 2), scatters=True)
    graph = build(path)

    found = {graph.nodes[key]["name"]: sizes for key, sizes in chunks_of_all(graph).items()}
    assert found == {"GatherBackward": (3, 3, 2), "ScatterBackward": (3, 3, 2)}
