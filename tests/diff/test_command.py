"""`gradtrace diff` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.diff.runs import Run, record
from tests.graph.sketch import Grad, Op, Sketch, repeated
from tracer.cli import main

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("one") / "one.trace", Run())


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("four") / "forgotten.trace", Run((4, 4, 4, 4)))


def test_two_traces_as_text(one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(one), str(forgotten)]) == 0
    out = capsys.readouterr().out

    assert out.splitlines()[0].startswith("A  ")
    assert "Gradients and steps 4 x as large in B." in out


def test_the_exit_code_is_asked_for(one: Path, forgotten: Path) -> None:
    assert main(["diff", str(one), str(forgotten), "--exit-code"]) == 1
    assert main(["diff", str(one), str(one), "--exit-code"]) == 0


def test_two_traces_as_a_document(
    one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(one), str(forgotten), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    four = {"value": 4.0, "text": "4", "is_exact": True}
    assert (document["schema"], document["is_different"]) == (1, True)
    assert document["moments"][0]["factors"] == [{"factor": four, "parameters": 4}]
    assert [gradient["relation"] for gradient in document["gradients"]] == ["multiple"] * 4
    assert document["steps"][0]["ratio"] == four
    (ledger,) = document["ledgers"]
    (loss,) = ledger["losses"]
    assert (ledger["explains"], loss["first"], loss["ratio"]) == (True, "backward calls", four)
    stage = next(stage for stage in loss["stages"] if stage["name"] == "backward calls")
    assert stage["a"]["file"].endswith("runs.py")
    assert isinstance(stage["b"]["line"], int)


def keys(value: object) -> set[str]:
    """Every key of a document, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set[str]().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_key_of_the_document_is_documented(
    one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["diff", str(one), str(forgotten), "--json"])
    page = (ROOT / "docs" / "diff.md").read_text(encoding="utf-8")

    found = keys(json.loads(capsys.readouterr().out))
    assert {key for key in found if f"`{key}`" not in page} == {"unit_b", "unit_weight_b"}


def test_two_steps_of_one_trace(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(one), "--step", "1", "--step", "3"]) == 0
    out = capsys.readouterr().out

    assert f"A  {one} step 1" in out
    assert f"B  {one} step 3" in out
    assert "at step 1 of A and 3 of B" in out


def test_one_step_of_both(one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(one), str(forgotten), "--step", "2"]) == 0
    assert ", at step 2" in capsys.readouterr().out


def test_one_parameter(one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(one), str(forgotten), "--parameter", "first.weight"]) == 0
    assert "B = 4 x A for 1 of 1 parameter" in capsys.readouterr().out


def test_runs_without_steps_are_compared_filling_by_filling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repeated(tmp_path / "t.trace")

    assert main(["diff", str(path), str(path)]) == 0
    out = capsys.readouterr().out
    assert "No difference: the same gradients." in out
    assert "B = A for 1 of 1 parameter, at filling 1" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one trace and not two steps of it"),
        (["--step", "1"], "one trace and not two steps of it"),
        (["--step", "1", "--step", "9"], "no step 9; recorded are 1, 2, 3"),
        (["--step", "1", "--step", "2", "--step", "3"], "--step was given 3 times"),
        (["--step", "1", "--step", "2", "--parameter", "x"], "no parameter is called 'x'"),
    ],
)
def test_what_is_not_there_is_one_line_and_2(
    words: list[str], said: str, one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(one), *words]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert len(streams.err.splitlines()) == 1


def test_runs_of_two_models_have_nothing_to_compare(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = repeated(tmp_path / "t.trace")

    assert main(["diff", str(one), str(other)]) == 2
    assert "have no parameter in common" in capsys.readouterr().err


def test_a_trace_without_calls_says_so(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(one), str(Sketch(tmp_path / "t.trace").close())]) == 2
    assert "holds no backward call" in capsys.readouterr().err


def test_names_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for number in (1, 2):
        sketch = Sketch(tmp_path / f"{number}.trace", "a\x1b[31m.py")
        w = sketch.buffer("w\x1b[2J\n", (4,))
        part = Grad((4,), 0.25)
        nodes = [Op("MeanBackward0", 7), Op("AccumulateGrad", buffer=w)]
        sketch.call(nodes, [(0, 1, part)], after={w: part})
        sketch.step({w: Grad((4,), 0.25 * number)})  # by hand: x 2 in the second
        paths.append(str(sketch.close()))
    assert main(["diff", *paths]) == 0
    out = capsys.readouterr().out

    assert "\x1b" not in out
    assert "B = 2 x A" in out
    assert "\\x1b[2J" in out


def test_reading_loads_no_torch(one: Path, forgotten: Path) -> None:
    code = (
        "import sys, tracer.cli; tracer.cli.main(['diff', *sys.argv[1:]]); "
        "sys.exit(3 * ('torch' in sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(one), str(forgotten)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert process.returncode == 0
    assert "4 x" in process.stdout


def test_a_picture_has_both_slices_and_the_answer(
    one: Path, forgotten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "two.svg"

    assert main(["diff", str(one), str(forgotten), "--svg", "-o", str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {output} (")
    picture = ElementTree.fromstring(output.read_text(encoding="utf-8"))
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert texts[0] == "Gradients and steps 4 x as large in B."
    assert "B = 4 x A for 4 of 4 parameters, at step 1" in texts
    assert [text[:1] for text in texts if text.endswith(".trace")] == ["A", "B"]
    left, right = picture.findall(f"{SVG}svg")
    assert float(left.attrib["x"]) + float(left.attrib["width"]) < float(right.attrib["x"])
    assert sum(text.startswith("backward call") for text in texts) == 5


def test_only_a_picture_is_written(
    one: Path, forgotten: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(one), str(forgotten), "-o", "x.svg"]) == 2
    assert "only --svg writes a file" in capsys.readouterr().err
