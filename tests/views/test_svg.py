"""The picture: valid, self-contained, the same every time, and safe against any name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sketch, blocks, repeated
from tests.graph.test_export import HOSTILE, hostile
from tests.graph.test_replicas import replicated, two_replicas
from tracer.errors import DotFailed, UnknownName
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.views import dot, svg
from tracer.views.layout import TooSlow, find_program
from tracer.views.svg import render

SPACE = "{http://www.w3.org/2000/svg}"
Golden = Callable[[str, str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hand.trace"


def texts(picture: str) -> list[str]:
    return [" ".join((e.text or "").split()) for e in ET.fromstring(picture).iter(f"{SPACE}text")]


def test_repeated_backward(path: Path, golden: Golden) -> None:
    picture = render(repeated(path))
    golden("repeated.svg", picture)

    shown = texts(picture)
    assert "repeated_backward.py · 3 backward calls" in shown
    assert shown.count("mean 1/4") == 3
    assert "Σ 3 calls" in shown
    assert ".grad 1 → 2 → 3" in shown


def test_blocks(path: Path, golden: Golden) -> None:
    golden("blocks.svg", render(blocks(path, count=12, calls=2), depth=3))


def test_replicas(path: Path, golden: Golden) -> None:
    golden("replicas.svg", render(two_replicas(path, layers=9), depth=1))


def test_each_lane_is_titled_with_its_replica(path: Path) -> None:
    shown = texts(render(two_replicas(path)))

    assert {"replica 0", "replica 1"} <= set(shown)
    assert shown.count("cpu · 2 of 4") == 2


def test_lanes_of_replicas_stand_side_by_side(path: Path) -> None:
    picture = ET.fromstring(render(two_replicas(path), depth=1))
    places = {t.text: t for t in picture.iter(f"{SPACE}text")}
    first, second = places["replica 0"], places["replica 1"]

    assert first.get("y") == second.get("y")
    assert first.get("x") != second.get("x")


def test_many_replicas_are_one_lane_that_says_how_many(path: Path) -> None:
    shown = texts(render(replicated(path, layers=2, chunks=(1,) * 8), depth=1))

    assert "net × 8 replicas" in shown


def test_dot_source(path: Path, golden: Golden) -> None:
    golden("blocks.dot", dot.source(fold(build(blocks(path, count=12)), depth=2)))


def test_the_same_trace_makes_the_same_picture(path: Path) -> None:
    graph = build(blocks(path, count=6))

    assert render(graph) == render(graph)
    assert render(graph) == render(path)


@pytest.mark.parametrize("make", [repeated, blocks, two_replicas])
def test_a_picture_needs_nothing_else(path: Path, make: Callable[[Path], Path]) -> None:
    picture = render(make(path))
    tags = {element.tag.removeprefix(SPACE) for element in ET.fromstring(picture).iter()}

    assert tags <= {"svg", "title", "style", "rect", "g", "path", "polygon", "text"}
    assert re.findall(r"https?://[^\"]+", picture) == ["http://www.w3.org/2000/svg"]
    assert "href" not in picture
    assert "url(" not in picture
    assert "<rect width=" in picture  # the white ground, for dark pages


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    graph = hostile(tmp_path / "t.trace")
    picture = render(graph)
    tree = ET.fromstring(picture)

    tags = {element.tag.removeprefix(SPACE) for element in tree.iter()}
    assert "script" not in tags
    assert "<script" not in picture
    assert max(len(text) for text in texts(picture)) < 200
    assert len(picture) < 20_000
    assert any("<script>" in (element.text or "") for element in tree.iter())


def test_hostile_names_are_quoted_in_dot(tmp_path: Path) -> None:
    source = dot.source(fold(hostile(tmp_path / "t.trace")))

    assert "\x00" not in source
    assert len(source) < 20_000
    assert HOSTILE not in source


def test_only_what_leads_to_a_parameter(path: Path) -> None:
    shown = texts(render(blocks(path, count=4), parameter="blocks.2.layer.weight"))

    assert "train.py · blocks.2.layer.weight · step 1 · 2 backward calls" in shown
    with pytest.raises(UnknownName, match="no parameter is called 'nope'"):
        render(path, parameter="nope")


def test_only_one_call(path: Path) -> None:
    assert "train.py · backward call 2" in " ".join(texts(render(blocks(path, step=False), call=2)))


def test_a_nan_is_drawn_and_marked(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    sketch.call(
        [Op("SumBackward0"), Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((1,), float("nan")))],
        loss=float("nan"),
    )
    picture = render(sketch.close())

    assert "loss = NaN" in texts(picture)
    assert "#b3003c" in picture


def test_a_layout_that_takes_too_long_is_folded_further_and_it_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def slow_at_first(*arguments: object) -> object:
        attempts.append(arguments)
        if len(attempts) == 1:
            raise TooSlow("dot-failed", "too slow")
        return laid_out(*arguments)  # type: ignore[arg-type]

    laid_out = svg.laid_out
    monkeypatch.setattr(svg, "laid_out", slow_at_first)
    shown = " ".join(texts(render(blocks(path, count=4), depth=3)))

    assert "folded further, as the layout took over 10 s" in shown
    assert len(attempts) == 2


def test_a_picture_that_is_never_ready_is_an_error(path: Path, tmp_path: Path) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 5\n")
    program.chmod(0o755)
    with pytest.raises(DotFailed, match=r"slow took more than 0.1 s"):
        render(repeated(path), program=program, timeout=0.1)


def test_no_more_than_a_thousand_nodes_are_laid_out(path: Path) -> None:
    sketch = Sketch(path)
    root = sketch.module("Net", variable="net")
    operations, sent = [Op("MeanBackward0", 1)], []
    for number in range(3000):
        module = sketch.module(f"Layer{number}", f"layer{number}", root)
        operations.append(Op("ReluBackward0", number + 2, module))
        sent.append((number, number + 1, Grad((2,), 0.5)))
    sketch.call(operations, sent)
    folded = fold(build(sketch.close()), depth=1)

    assert len(folded) <= 1000
    assert folded.graph["fold"].startswith("depth 0 instead of 1, to stay legible")


def test_the_program_is_the_one_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mydot"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("GRADTRACE_DOT", str(program))
    assert find_program() == str(program)

    monkeypatch.setenv("GRADTRACE_DOT", str(tmp_path / "missing"))
    with pytest.raises(DotFailed, match="missing is no program"):
        find_program()


def test_without_any_program_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GRADTRACE_DOT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(DotFailed, match=r"pip install 'graphviz-pure>=0.2.2'") as caught:
        find_program()
    assert caught.value.slug == "no-dot"


def test_a_program_that_fails_is_quoted(tmp_path: Path, path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho 'out of ink' >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(DotFailed, match=r"could not lay out the graph \(out of ink\)"):
        render(repeated(path), program=program)
