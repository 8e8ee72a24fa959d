"""What the levels of detail keep and leave out; the reading half says what is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tracer
from tracer.errors import WrongUse
from tracer.events import DETAILS

CLI = Path(__file__).parents[2] / "cli.py"


def recorded(path: Path, detail: str) -> tuple[list[torch.Tensor], tracer.Trace]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.Recorder(path, detail=detail):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            optimizer.step()
    return list(model.parameters()), tracer.load(path)


@pytest.fixture(params=DETAILS)
def detail(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_level_knows_the_same_graph_and_shapes(tmp_path: Path, detail: str) -> None:
    _, whole = recorded(tmp_path / "whole.trace", "edges")
    _, part = recorded(tmp_path / "part.trace", detail)

    with whole, part:
        a, b = whole.layout(whole.calls[-1].layout), part.layout(part.calls[-1].layout)
        assert a.structure is not None
        assert b.structure is not None
        assert whole.structure(a.structure).edges == part.structure(b.structure).edges
        assert [whole.forms[c.form].shape for c in a.contributions] == [
            part.forms[c.form].shape for c in b.contributions
        ]
        assert {(r.node, r.input) for r in a.receipts} == {(r.node, r.input) for r in b.receipts}
        assert part.info.options["detail"] == detail


@pytest.mark.parametrize(
    ("level", "edges", "buffers"),
    [("edges", True, True), ("buffers", False, True), ("structure", False, False)],
)
def test_what_is_measured(tmp_path: Path, level: str, edges: bool, buffers: bool) -> None:
    parameters, trace = recorded(tmp_path / "run.trace", level)

    with trace:
        layout, rows = trace.layout(trace.calls[-1].layout), trace.measurements(trace.calls[-1])
        assert all((c.row is not None) is edges for c in layout.contributions)
        after = [r for r in layout.readings if r.moment == "after"]
        assert len(after) == len(parameters)
        assert all((r.row is not None) is buffers for r in after)
        if buffers:
            norms = sorted(rows[r.row].norm for r in after if r.row is not None)
            grads = [p.grad for p in parameters if p.grad is not None]
            assert norms == pytest.approx(sorted(g.norm().item() for g in grads), rel=1e-5)


def test_every_level_leaves_the_same_parameters(tmp_path: Path) -> None:
    runs = [recorded(tmp_path / f"{level}.trace", level) for level in DETAILS]

    for parameters, trace in runs:
        trace.close()
        for one, other in zip(parameters, runs[0][0], strict=True):
            assert torch.equal(one, other)


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="edges, buffers, structure"):
        tracer.Recorder(tmp_path / "run.trace", detail="all")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["explain"], "0 parameters"),
        (["explain", "0.weight"], "0.weight"),
        (["check"], "run.trace"),
        (["info"], "detail={detail}"),
        (["graph", "-o", "g.json"], "wrote g.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_command_reads_every_level(
    tmp_path: Path, detail: str, command: list[str], says: str
) -> None:
    recorded(tmp_path / "run.trace", detail)[1].close()

    done = run(tmp_path, command[0], "run.trace", *command[1:])

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert says.format(detail=detail).removeprefix("0 ") in done.stdout
    is_told = f"--detail {detail}" in done.stderr
    assert is_told is (detail != "edges" and command[0] != "info")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CLI), *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_script_can_carry_its_level(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        '# /// script\n# [tool.tracer]\n# detail = "structure"\n# ///\n'
        "import torch\n"
        "torch.ones(3, requires_grad=True).sum().backward()\n"
    )

    done = run(tmp_path, "trace", "--no-svg", "script.py")

    assert done.returncode == 0, done.stderr
    assert "not checked, as gradients were not measured" in done.stderr
    with tracer.load(tmp_path / "script.trace") as trace:
        assert trace.measurements(trace.calls[0]) == []
