"""What is said on a terminal, from hand-made counts and traces."""

from __future__ import annotations

import io
import textwrap
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from tracer.analysis.balance import BalanceReport, Imbalance
from tracer.analysis.contents import Contents, contents_of
from tracer.analysis.places import Place, places_of
from tracer.commands import report
from tracer.commands.console import wants_colour, write
from tracer.commands.trace import Plan
from tracer.events import Call, Contribution, Layout, Node, RunInfo, Step, Structure
from tracer.record.script import Target
from tracer.tracefile import TraceWriter, load
from tracer.views.terminal import (
    Ink,
    Written,
    balance_text,
    bytes_text,
    count_text,
    printable,
    summary_text,
    table,
)

CONTENTS = Contents(
    run=RunInfo(script="train.py", exit_code=7, status="finished"),
    calls=3,
    entries={"backward": 3},
    nested=0,
    failed=0,
    steps=1,
    resets=1,
    structures=1,
    nodes=1204,
    contributions=12,
    buffers=2,
    parameters=2,
    modules=1,
    calls_per_step={3: 1},
    bytes=90_000,
    per_step=90_000,
    measured_per_call=400,
)


def test_a_summary_says_what_was_seen_and_what_comes_next() -> None:
    text = summary_text(
        CONTENTS,
        balance="every sum adds up",
        places=[
            ("summed", "3 backward calls", "in 2 buffers", ""),
            ("averaged", "mean of 8", "loss.mean()", "train.py:52"),
        ],
        written=[Written("train.trace", 90_000), Written("train.svg", 812)],
        remarks=["something is missing"],
        following="gradtrace graph train.trace",
        ink=Ink(),
    )

    assert text == textwrap.dedent("""\
        gradtrace: train.py, exit code 7
          recorded   3 backward calls in 1 step, 1,204 nodes (1 structure), 12 contributions, 2 buffers
          balance    every sum adds up
          gradients  summed    3 backward calls  in 2 buffers
                     averaged  mean of 8         loss.mean()   train.py:52
          wrote      train.trace (90 kB), train.svg (812 B)
        gradtrace: something is missing
        next: gradtrace graph train.trace
        """)  # noqa: E501 - as it is printed


def test_without_a_backward_call_the_summary_says_just_that() -> None:
    text = summary_text(
        replace(CONTENTS, calls=0),
        balance="",
        places=[],
        written=[],
        remarks=[],
        following="",
        ink=Ink(),
    )

    assert text.splitlines()[1:] == ["  recorded   no backward call was seen in this process"]


def test_balance_is_told_in_a_line() -> None:
    assert balance_text(BalanceReport(fan_ins=3, buffers=1, worst=3e-8), 2, 2) == (
        "every sum adds up, to 3e-08: 3 fan-ins, 1 buffer sum"
    )
    wrong = Imbalance(4, 0, 0, "MulBackward0 input 0", 0.5, 4.0, "")
    hooked = replace(wrong, explanation="2 hooks before the node")
    report = BalanceReport(
        fan_ins=3, buffers=1, imbalances=(wrong,), hooked=(hooked,), explained=1, unchecked=1
    )
    text = balance_text(report, 2, 9)
    assert text == (
        "1 of 3 fan-ins, 1 buffer sum do NOT add up, first MulBackward0 input 0 in backward call "
        "4, x 4; 1 changed by 2 hooks before the node; 1 could not be checked (checked in 2 of 9 "
        "calls)"
    )


def test_numbers_are_short() -> None:
    assert [bytes_text(n) for n in (0, 999, 1000, 34_567, 1_234_567, 5 * 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "35 kB",
        "1.2 MB",
        "5.0 GB",
    ]
    assert [count_text(n, "node") for n in (0, 1, 1204)] == ["0 nodes", "1 node", "1,204 nodes"]


def test_cells_stand_in_columns() -> None:
    assert table([("a", "long"), ("bcd", "")]) == "a    long\nbcd"
    assert table([]) == ""


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[31m\n\x9b\udcff\u202eü") == "a\\x1b[31m\\n\\x9b\\udcff\\u202eü"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_whose_user_wants_it() -> None:
    assert wants_colour(Terminal(), {})
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})
    assert wants_colour(Terminal(), {"NO_COLOR": ""})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {})
    assert not wants_colour(None, {})


def test_what_an_encoding_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")

    write("größer", stream)

    assert raw.getvalue() == b"gr\\xf6\\xdfer"


def test_places_are_ranked_and_counted_by_line() -> None:
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    graph.add_node("bias", kind="node", file="x.py", line=1, called="conv2d", module="0")
    graph.add_node("sum", kind="node", file="x.py", line=2, called="sum", module=None)
    graph.add_node("mean", kind="node", file="x.py", line=3, called="mean", module=None)
    graph.add_node("b0", kind="buffer", runs=(1, 3))
    graph.add_node("b1", kind="buffer", runs=(1,))
    graph.add_edge("bias", "b0", effect="sums", count=64, words="sum of 64")
    graph.add_edge("sum", "mean", effect="broadcasts", count=4, words="sum over 4 items")
    graph.add_edge("mean", "bias", effect="averages", count=8, words="mean of 8")
    graph.add_edge("mean", "bias", effect="averages", count=8, words="mean of 8")
    graph.add_edge("mean", "sum", effect="averages", count=1, words="mean of 1")

    assert places_of(graph) == [
        Place("summed", "3 backward calls", "in 1 buffer", "", 0, 1),
        Place("averaged", "mean of 8", "mean", "x.py", 3, 2),
        Place("summed", "sum over 4 items", "sum", "x.py", 2, 1),
    ]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A trace of two calls of one structure and a step, without measurements."""
    path = tmp_path / "run.trace"
    writer = TraceWriter(path, RunInfo(script="train.py"))
    writer.add(Structure(0, (Node(0, "MeanBackward0"), Node(1, "AccumulateGrad")), ()))
    writer.add(Layout(0, 0, contributions=(Contribution(0, 0, None),)))
    writer.add(Layout(1, None))
    writer.add(Call(order=0, layout=0, entry="backward", step=1))
    writer.add(Call(order=1, layout=0, entry="grad", step=1, nested_in=0, outcome="ValueError"))
    writer.add(Step(order=2, step=1, layout=1, optimizer=0, kind="SGD"))
    writer.close(RunInfo(script="train.py", status="finished", exit_code=0))
    return path


def test_contents_count_what_the_calls_have_together(small: Path) -> None:
    with load(small) as trace:
        contents = contents_of(trace)

    assert (contents.calls, contents.nested, contents.failed) == (2, 1, 1)
    assert contents.entries == {"backward": 1, "grad": 1}
    assert (contents.structures, contents.nodes, contents.contributions) == (1, 4, 2)
    assert contents.calls_per_step == {1: 1}
    assert contents.bytes == small.stat().st_size
    assert contents.measured_per_call == 0


def test_a_tracer_that_gave_up_says_why_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.trace"
    info = RunInfo(script="train.py", cwd=str(tmp_path))
    TraceWriter(path, info).close(info)

    report.after_run(Plan(Target("train.py"), path), "OSError: disk full")

    assert capfd.readouterr().err.splitlines() == [
        "gradtrace: train.py",
        "  recorded   no backward call was seen in this process",
        f"  wrote      run.trace ({bytes_text(path.stat().st_size)})",
        "gradtrace: the tracer gave up and the script went on without it: OSError: disk full",
    ]
