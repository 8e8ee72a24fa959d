"""A large graph is read as columns: they say what the rows say."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, deep, repeated
from tracer import columns
from tracer.errors import TraceUnreadable
from tracer.events import Layout, Structure
from tracer.tracefile import load


def read(path: Path) -> list[tuple[Structure, Layout]]:
    with load(path) as trace:
        layouts = [trace.layout(call.layout) for call in trace.calls]
        return [(trace.structure(one.structure or 0), one) for one in layouts]


def everything(structure: Structure, layout: Layout) -> list[list[object]]:
    kept = (layout.rows, layout.states, layout.contributions, layout.receipts)
    return [list(facts) for facts in (structure.nodes, structure.edges, *kept)]


def odd(path: Path) -> Path:
    """Names that hold what stands between fields and records."""
    sketch = Sketch(path)
    w = sketch.buffer("w", (3,))
    names = ["Mul\x1eBackward0", "Mul\x1fBackward0", "", "AccumulateGrad"]
    operations = [Op(name, 5, buffer=w if name == names[-1] else None) for name in names]
    sketch.call(operations, [(n, n + 1, Grad((3,), 0.5)) for n in range(3)], root=Grad((3,)))
    return sketch.close()


MAKERS: dict[str, Callable[[Path], Path]] = {
    "calls": repeated,
    "blocks": blocks,
    "a chain": lambda path: deep(path, 300),
    "odd names": odd,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_columns_say_what_rows_say(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "hand.trace")
    rows = read(path)
    monkeypatch.setattr(columns, "LARGE", 0)
    found = read(path)

    assert all(isinstance(structure.nodes, columns.Nodes) for structure, _ in found)
    assert not any(isinstance(structure.nodes, columns.Nodes) for structure, _ in rows)
    assert [everything(*one) for one in found] == [everything(*one) for one in rows]


def test_what_counts_on_is_a_range_and_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "LARGE", 0)
    ((structure, layout),) = read(deep(tmp_path / "deep.trace", 300))

    assert isinstance(structure.edges, columns.Edges)
    assert structure.edges.receiver == range(1, 301)
    assert set(structure.edges.output) == {0}
    assert isinstance(layout.receipts, columns.Receipts)
    assert layout.receipts.node == range(301)


def test_facts_of_columns_are_picked_and_cut_like_a_tuple(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deep(tmp_path / "deep.trace", 300)
    ((rows, _),) = read(path)
    monkeypatch.setattr(columns, "LARGE", 0)
    ((found, _),) = read(path)

    assert found.nodes[-1] == rows.nodes[-1]
    assert found.edges[3:5] == rows.edges[3:5]
    assert found.edges == rows.edges
    with pytest.raises(IndexError):
        found.nodes[301]


@pytest.mark.parametrize("value", ["'many'", "1.5", "9223372036854775807.5"])
def test_a_column_that_holds_no_numbers_is_damage(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deep(tmp_path / "deep.trace", 300)
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE edges SET receiver = {value} WHERE edge = 7")
    monkeypatch.setattr(columns, "LARGE", 0)

    with pytest.raises(TraceUnreadable) as found:
        read(path)
    assert found.value.slug == "damaged-trace"
