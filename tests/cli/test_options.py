"""What the command line accepts, what it refuses, and in which words."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

from tests.cli.conftest import CLI, TRAINING, Ended, Folder
from tracer.commands.metadata import table_of
from tracer.commands.values import parse_count, parse_output, parse_steps
from tracer.errors import WrongUse
from tracer.graph.build import build
from tracer.version import __version__


def assert_refused(ended: Ended, *words: str) -> None:
    """One line on standard error, nothing on standard output, exit code 2."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("gradtrace: ")
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("trace", "--help")])
def test_version_and_help_are_quick_and_load_no_torch(folder: Folder, words: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

    ended = folder.python("-X", "importtime", str(CLI), *words)

    assert ended.code == 0
    assert "gradtrace" in ended.out
    assert not {"torch", "networkx", "rich"} & {line.split("|")[-1].strip() for line in
                                                ended.err.splitlines()}  # fmt: skip
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.3


def test_the_three_ways_to_call_it_are_the_same(folder: Folder) -> None:
    environment = {"PYTHONPATH": str(CLI.parent)}
    console = "import sys; sys.argv[0] = 'gradtrace'; from tracer.cli import main; sys.exit(main())"

    shim = folder.cli("--version")

    assert shim.out == f"gradtrace {__version__}\n"
    assert folder.python("-m", "tracer", "--version", environment=environment) == shim
    assert folder.python("-c", console, "--version", environment=environment) == shim


def test_options_may_stand_anywhere_among_what_a_command_reads(folder: Folder) -> None:
    folder.write("script.py", TRAINING + "step()\n")
    assert folder.traced("script.py").code == 0

    behind = folder.cli("explain", "script.trace", "weight", "--step", "1")

    assert behind.code == 0
    assert folder.cli("explain", "script.trace", "--step", "1", "weight") == behind
    assert folder.cli("explain", "--step", "1", "script.trace", "weight") == behind


def test_no_command_shows_what_there_is(folder: Folder) -> None:
    ended = folder.cli()

    assert ended.code == 2
    assert "trace" in ended.out
    assert "info" in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("paint",), "invalid choice: 'paint'"),
        (("trace",), "SCRIPT"),
        (("trace", "--steps", "3:1", "x.py"), "found '3:1', expected A:B"),
        (("trace", "--every", "0", "x.py"), "found '0', expected a whole number from 1 on"),
        (("trace", "--gpus", "0", "x.py"), "found '0', expected a whole number from 1 on"),
        (("trace", "missing.py"), "can't open file 'missing.py': [Errno 2]"),
        (("trace", "-m", "no_such_module"), "No module named 'no_such_module'"),
        (("trace", "-m", "json.no_such_part"), "No module named 'json.no_such_part'"),
        (("trace", "-m", "email"), "No module named 'email'"),
        (("trace", "-m", ""), "No module named ''"),
        (("info", "missing.trace"), "missing.trace does not exist"),
    ],
)
def test_wrong_use_is_told_in_one_line(folder: Folder, words: tuple[str, ...], said: str) -> None:
    assert_refused(folder.cli(*words), said)
    assert not list(folder.path.glob("*.trace"))


@pytest.mark.parametrize("command", ["info", "graph"])
def test_a_file_that_is_no_readable_trace_is_told_in_one_line(folder: Folder, command: str) -> None:
    folder.write("script.py", "pass")
    folder.traced("script.py")
    good = (folder.path / "script.trace").read_bytes()
    (folder.path / "text.trace").write_text("this is not a trace")
    (folder.path / "empty.trace").write_bytes(b"")
    (folder.path / "short.trace").write_bytes(good[: len(good) // 2])
    (folder.path / "header.trace").write_bytes(good[:50])
    (folder.path / "other.trace").write_bytes(good)
    with sqlite3.connect(folder.path / "other.trace") as database:
        database.execute("PRAGMA user_version = 99")
    sqlite3.connect(folder.path / "foreign.trace").execute("CREATE TABLE x (y)").connection.close()

    assert_refused(folder.cli(command, "text.trace"), "text.trace is not a trace")
    assert_refused(folder.cli(command, "empty.trace"), "empty.trace is not a trace")
    assert_refused(folder.cli(command, "short.trace"), "short.trace is damaged")
    assert_refused(folder.cli(command, "header.trace"), "header.trace is damaged")
    assert_refused(folder.cli(command, "other.trace"), "schema 99", "reads schema 2")
    assert_refused(folder.cli(command, "foreign.trace"), "SQLite file of another program")
    (folder.path / "nothing").mkdir()
    assert_refused(folder.cli(command, "nothing"), "nothing")


def test_an_output_that_cannot_be_written_is_told_before_the_script_runs(folder: Folder) -> None:
    folder.write("script.py", "print('never')")
    folder.write("mine.trace", "precious notes")

    assert_refused(folder.traced("-o", "no/such/folder", "script.py"), "folder.trace", "--output")
    assert_refused(folder.traced("-o", "mine", "script.py"), "mine.trace exists and is not a trace")
    assert (folder.path / "mine.trace").read_text() == "precious notes"


def test_a_script_without_a_backward_call_says_so_and_is_no_error(folder: Folder) -> None:
    folder.write("script.py", "print('launched')")

    ended = folder.cli("trace", "script.py")

    assert (ended.code, ended.out) == (0, "launched\n")
    assert "no backward call was seen" in ended.err
    assert not (folder.path / "script.svg").exists()
    with folder.trace("script.trace") as trace:
        assert (trace.info.status, trace.info.exit_code, trace.calls) == ("finished", 0, [])


def test_a_module_of_the_users_that_is_hidden_by_ours_is_told(folder: Folder) -> None:
    folder.write("deep/script.py", "print('ran')")
    folder.write("deep/tracer.py", "")

    ended = folder.traced("deep/script.py")

    assert ended.out == "ran\n"
    assert "deep/tracer.py is hidden by this program's own package `tracer`" in ended.err


def test_the_trace_goes_where_it_is_told_and_ends_in_trace(folder: Folder) -> None:
    folder.write("script.py", "import os; os.chdir('/')")
    folder.write("package/part.py", "pass")
    folder.traced("-o", "here", "script.py")
    folder.traced("--output=there.trace", "script.py")
    folder.traced("-m", "package.part")

    assert {file.name for file in folder.path.glob("*.trace")} == {
        "here.trace",
        "there.trace",
        "part.trace",
    }


def test_an_older_trace_is_replaced(folder: Folder) -> None:
    folder.write("one.py", "pass")
    folder.write("two.py", "pass")
    folder.traced("-o", "run", "one.py")
    folder.traced("-o", "run", "two.py")

    with folder.trace("run.trace") as trace:
        assert trace.info.script == "two.py"


WITH_TABLE = """\
# /// script
# dependencies = ["torch"]
#
# [tool.tracer]
# output = "chosen"
# steps = "2:3"
# every = 1
# svg = false
# ///
"""


def test_a_script_carries_its_own_defaults(folder: Folder) -> None:
    folder.write("script.py", WITH_TABLE + TRAINING + "for _ in range(4): step()")

    folder.cli("trace", "script.py")

    assert not (folder.path / "chosen.svg").exists()
    with folder.trace("chosen.trace") as trace:
        assert [step.step for step in trace.steps] == [2, 3]


def test_flags_win_over_what_the_script_carries(folder: Folder) -> None:
    folder.write("script.py", WITH_TABLE + TRAINING + "for _ in range(4): step()")

    folder.cli("trace", "--steps", "4", "-o", "other", "script.py")

    with folder.trace("other.trace") as trace:
        assert [step.step for step in trace.steps] == [4]


def test_a_module_carries_its_own_defaults_too(folder: Folder) -> None:
    folder.write("package/__main__.py", WITH_TABLE)

    folder.cli("trace", "-m", "package")

    assert (folder.path / "chosen.trace").exists()


COUNTS_GPUS = """\
# /// script
# [tool.tracer]
# gpus = 2
# ///
import torch
print(torch.cuda.device_count(), torch.ones(2, device="cuda:1").device)
"""


def test_a_script_asks_for_virtual_gpus_and_flags_win(folder: Folder) -> None:
    folder.write("script.py", COUNTS_GPUS)

    by_default, by_flag = folder.traced("script.py"), folder.traced("--gpus", "4", "script.py")

    assert (by_default.code, by_default.out) == (0, "2 cuda:1\n")
    assert (by_flag.code, by_flag.out) == (0, "4 cuda:1\n")


def test_a_script_that_misses_cuda_fails_as_always_and_is_told_of_the_option(
    folder: Folder,
) -> None:
    folder.write("script.py", "import torch\ntorch.ones(2).cuda()\n")

    plain, traced = folder.python("script.py"), folder.traced("script.py")

    assert (traced.code, traced.out) == (plain.code, plain.out) == (1, "")
    assert traced.err.startswith(plain.err)
    assert "the script needs CUDA: `--gpus N` runs it on N virtual devices" in traced.err


def test_an_unknown_key_is_named_and_the_script_runs(folder: Folder) -> None:
    folder.write("script.py", "# /// script\n# [tool.tracer]\n# stepps = 2\n# ///\nprint('ran')")

    ended = folder.traced("script.py")

    assert ended.out == "ran\n"
    assert "unknown key 'stepps' in [tool.tracer]; known are output, steps" in ended.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[tool.tracer", "is not TOML"),
        ("tool.tracer = 3", "expected a table"),
        ("tool.tracer.every = 0", "every: found '0', expected a whole number"),
        ("tool.tracer.every = true", "every: found 'True'"),
        ("tool.tracer.svg = 1", "svg: found 1, expected true or false"),
        ("tool.tracer.output = 1", "output: found 1, expected the path"),
    ],
)
def test_a_malformed_table_is_refused_before_the_script_runs(
    folder: Folder, line: str, said: str
) -> None:
    folder.write("script.py", f"# /// script\n# {line}\n# ///\nprint('never')")

    assert_refused(folder.traced("script.py"), "script.py", said)


def test_two_blocks_are_refused() -> None:
    block = "# /// script\n# [tool.tracer]\n# ///\n"

    with pytest.raises(WrongUse, match="found 2 `# /// script` blocks"):
        table_of(block + "\n" + block, "script.py")


def test_a_block_of_another_kind_or_without_a_table_is_no_concern() -> None:
    assert table_of("# /// other\n# [tool.tracer]\n# every = 2\n# ///\n", "x.py") == {}
    assert table_of("# /// script\n# dependencies = []\n# ///\n", "x.py") == {}
    assert table_of("# /// script\r\n# [tool.tracer]\r\n# every = 2\r\n# ///\r\n", "x.py") == {
        "every": 2
    }


def test_steps_are_a_range_from_one_on_with_both_ends() -> None:
    assert parse_steps("2:5") == (2, 5)
    assert parse_steps("2:") == (2, None)
    assert parse_steps(":5") == (1, 5)
    assert parse_steps("4") == (4, 4)
    assert parse_steps(4) == (4, 4)


@pytest.mark.parametrize("text", ["", ":", "0", "0:3", "5:4", "a", "1:b", "1:2:3", "-1", None])
def test_other_steps_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected A:B"):
        parse_steps(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "x", True, 2.0])
def test_other_counts_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        parse_count(text)


def test_an_output_ends_in_trace_whatever_was_typed() -> None:
    assert parse_output("run") == Path.cwd() / "run.trace"
    assert parse_output("a/run.trace") == Path.cwd() / "a/run.trace"
    assert parse_output("run.v2") == Path.cwd() / "run.v2.trace"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with `script.trace`: three steps of two calls. Nobody changes it."""
    folder = Folder(tmp_path_factory.mktemp("trained"))
    folder.write(
        "script.py",
        TRAINING
        + """
for _ in range(3):
    model(torch.ones(2, 3)).mean().backward()
    step()
""",
    )
    folder.traced("script.py")
    return folder


def test_info_counts_what_is_in_a_trace(trained: Folder) -> None:
    document = json.loads(trained.cli("info", "script.trace", "--json").out)

    assert document["schema"] == 1
    assert document["run"]["script"] == "script.py"
    assert document["run"]["status"] == "finished"
    assert (document["calls"], document["steps"], document["buffers"]) == (6, 3, 2)
    assert document["calls_per_step"] == {"2": 3}
    assert document["entries"] == {"backward": 6}
    assert document["structures"] == 2
    assert document["bytes"] == (trained.path / "script.trace").stat().st_size
    assert document["per_step"] == document["bytes"] // 3
    assert 0 < document["measured_per_call"] < document["per_step"]


def test_info_prints_a_plain_table_when_piped(trained: Folder) -> None:
    ended = trained.cli("info", "script.trace")

    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert "3 by an optimizer; 3 steps of 2 calls" in ended.out
    assert ended.err == ""


def test_a_closed_pipe_is_silent(trained: Folder) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    ended = subprocess.run(
        [sys.executable, CLI, "info", "script.trace"],
        cwd=trained.path, stdout=writer, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (141, b"")


def test_names_from_a_script_cannot_steer_the_terminal(folder: Folder) -> None:
    folder.write("\x1b[31mred.py", "pass")

    ended = folder.traced("\x1b[31mred.py")

    assert "\\x1b[31mred.py" in ended.err
    assert "\x1b" not in ended.err


def test_graph_draws_a_part_into_a_file_named_after_it(trained: Folder) -> None:
    ended = trained.cli("graph", "script.trace", "--parameter", "weight", "--step", "2")

    assert ended.code == 0
    assert ended.out.startswith("wrote script-weight-step2.svg (")
    assert "<svg" in (trained.path / "script-weight-step2.svg").read_text()


def test_graph_exports_every_node_and_contribution_for_other_programs(trained: Folder) -> None:
    for name in ("whole.json", "whole.graphml", "whole.dot"):
        assert trained.cli("graph", "script.trace", "-o", name).code == 0

    whole = build(trained.path / "script.trace")
    linked = json.loads((trained.path / "whole.json").read_text())
    read_back = nx.read_graphml(trained.path / "whole.graphml", force_multigraph=True)
    assert linked["schema"] == 1
    edges = {(edge["source"], edge["target"], edge["key"]) for edge in linked["edges"]}
    assert edges == set(whole.edges)
    assert set(read_back) == set(whole)
    assert read_back.number_of_edges() == whole.number_of_edges()
    assert (trained.path / "whole.dot").read_text().startswith("digraph")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "x.pdf"), "found '.pdf', expected .svg, .dot"),
        (("-o", "x"), "found '', expected .svg"),
        (("-o", "no/such/x.svg"), "no/such/x.svg: cannot write there"),
        (("--parameter", "wight"), "no parameter is called 'wight'; near it: weight"),
        (("--backward", "7"), "no backward call 7 in this trace: there are 6"),
        (("--step", "9"), "no backward call of step 9 was recorded"),
    ],
)
def test_graph_says_what_there_is_instead(
    trained: Folder, words: tuple[str, ...], said: str
) -> None:
    assert_refused(trained.cli("graph", "script.trace", *words), said)


def test_graph_of_a_trace_without_a_backward_call_says_so(folder: Folder) -> None:
    folder.write("script.py", "pass")
    folder.traced("script.py")

    assert_refused(folder.cli("graph", "script.trace"), "holds no backward call")


def test_a_run_is_summed_up_and_drawn(folder: Folder) -> None:
    folder.write("script.py", TRAINING + "step()\n")

    ended = folder.cli("trace", "script.py")

    lines = [line.split() for line in ended.err.splitlines()]
    assert lines[0] == ["gradtrace:", "script.py"]
    assert lines[1][:7] == ["recorded", "1", "backward", "call", "in", "1", "step,"]
    assert lines[2][:6] == ["balance", "every", "sum", "adds", "up,", "exactly:"]
    assert lines[3][0] == "wrote"
    assert {"script.trace", "script.svg"} < set(lines[3])
    assert ["=>", "the", "mean", "over", "all", "2", "items."] in lines
    assert any(line[:5] == ["items", "mean", "2", "items,", "1/2"] for line in lines)
    assert any(line[-1:] == ["script.py:11"] for line in lines)
    assert lines[-1][0] == "next:"
    assert lines[-1][-3:] == ["explain", "script.trace", "weight"]


def test_the_exit_code_is_the_scripts_even_if_nothing_can_be_drawn(folder: Folder) -> None:
    folder.write("script.py", TRAINING + "step()\nraise SystemExit(7)\n")

    ended = folder.cli("trace", "script.py", environment={"GRADTRACE_DOT": "/no/such/dot"})

    assert ended.code == 7
    assert "gradtrace: no picture: /no/such/dot is no program" in ended.err
    assert not (folder.path / "script.svg").exists()
