"""`gradtrace explain` as a user meets it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.graph.sketch import blocks, repeated
from tracer.cli import main


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return repeated(tmp_path / "t.trace")


def test_the_whole_run(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trace)]) == 0
    assert "=> 3 x the mean gradient, over all 12 items." in capsys.readouterr().out


def test_one_parameter_as_a_document(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trace), "w", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert document["schema"] == 1
    (found,) = document["fillings"]
    assert found["answer"] == "3 x the mean gradient, over all 12 items"
    assert [row["weight"]["text"] for row in found["rows"]] == ["1/4"] * 3
    shares = [entry["share"] for entry in found["buffer"]["contributions"]]
    assert math.isclose(sum(shares), 1)
    (loss,) = found["losses"]
    assert loss["total"] == {"value": 3.0, "text": "3", "is_exact": True}


def test_the_run_as_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = blocks(tmp_path / "b.trace")

    assert main(["explain", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [one["name"] for answer in document["answers"] for one in answer["parameters"]]
    assert len(names) == 4


def test_the_end_of_a_name_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = blocks(tmp_path / "b.trace")

    assert main(["explain", str(path), "2.layer.weight", "--step", "1"]) == 0
    assert capsys.readouterr().out.startswith("blocks.2.layer.weight")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no parameter is called 'nothing'"),
        (["w", "--step", "9"], "no step 9"),
        (["--step", "9"], "no gradient was consumed at step 9"),
        (["--step", "x"], "expected a whole number"),
    ],
)
def test_what_is_not_there_is_one_line_and_2(
    words: list[str], said: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(trace), *words]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert len(streams.err.splitlines()) == 1


def test_a_picture_from_the_loss_to_the_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = blocks(tmp_path / "b.trace")

    assert main(["explain", str(path), "blocks.0.layer.weight", "--svg"]) == 0
    written = capsys.readouterr().out.split()[1]
    assert "takes |grad|" in Path(written).read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [["--svg"], ["w", "-o", "x.svg"], ["w", "--svg", "-o", "no/x"]])
def test_a_picture_needs_a_parameter_and_a_place(
    trace: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(trace), *words]) == 2
    assert capsys.readouterr().err.startswith("gradtrace: ")
