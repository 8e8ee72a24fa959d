"""Places where things go wrong around the tracer: the script is none the wiser, and we say why."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import TRAINING, Ended, Folder, assert_same
from tracer.analysis.balance import check_balance
from tracer.errors import TracerError
from tracer.tracefile import load

LONG = (
    TRAINING
    + """
for iteration in range(400):
    step()
print([p.tolist() for p in model.parameters()])
raise SystemExit(5)
"""
)

SHORT = (
    TRAINING
    + """
for iteration in range(3):
    step()
    print(iteration, [p.tolist() for p in model.parameters()])
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def readable(folder: Folder, name: str) -> bool:
    """Whether the trace that was left is one, with books that balance, or is told to be damaged."""
    try:
        with load(folder.path / name) as trace:
            return check_balance(trace).is_balanced
    except TracerError as error:
        return error.slug == "damaged-trace"


@pytest.mark.sweep
def test_a_disk_that_fills_up_stops_the_recording_only(folder: Folder) -> None:
    folder.write("script.py", LONG)
    plain = folder.python("script.py")

    for kilobytes in (0, 8, 350, 500):
        traced = limited(folder, kilobytes)

        assert "Traceback" not in traced.err
        if traced.code == 2:  # not even an empty trace has room: told before the script runs
            assert (traced.out, len(traced.err.splitlines())) == ("", 1)
            assert kilobytes < 350
        else:
            assert_same(plain, traced)
            assert "gradtrace" in traced.err
            assert readable(folder, "script.trace")
        for file in folder.path.glob("script.trace*"):
            file.unlink()


def limited(folder: Folder, kilobytes: int) -> Ended:
    """Traced by a process that may write files of so many kilobytes only."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    process = subprocess.run(
        [sys.executable, "-B", str(folder.cli_path), "trace", "--no-svg", "script.py"],
        cwd=folder.path, capture_output=True, text=True, preexec_fn=limit, timeout=100, check=False,
    )  # fmt: skip
    return Ended(process.returncode, process.stdout, process.stderr)


@contextmanager
def disk(place: Path, kilobytes: int, mode: str = "rw") -> Iterator[Path]:
    """A disk with so much room, empty."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"{mode},size={kilobytes}k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(words, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_truly_full_disk_stops_the_recording_only(folder: Folder) -> None:
    folder.write("script.py", LONG)

    with disk(folder.path / "disk", 700) as small:
        traced = folder.traced("-o", str(small / "run.trace"), "script.py")

        assert_same(folder.python("script.py"), traced)
        assert "disk is full" in traced.summary or "full" in traced.summary
        assert "run.trace-wal" in traced.summary  # no room to fold it into the trace
        with load(small / "run.trace") as trace:
            assert len(trace.calls) > 10
            assert check_balance(trace).is_balanced


def test_a_disk_without_room_for_one_call_is_not_said_to_be_the_script_s_doing(
    folder: Folder,
) -> None:
    folder.write("script.py", LONG)

    with disk(folder.path / "disk", 300) as small:
        traced = folder.traced("-o", str(small / "run.trace"), "script.py")
        asked = folder.cli("explain", str(small / "run.trace"))

    assert_same(folder.python("script.py"), traced)
    assert asked.code == 2
    assert "the tracer gave up before it had written one" in asked.err
    assert "disk is full" in asked.err


def test_a_disk_without_room_for_an_empty_trace_is_left_empty(folder: Folder) -> None:
    folder.write("script.py", "print('it ran')")

    with disk(folder.path / "disk", 150) as small:
        traced = folder.traced("-o", str(small / "run.trace"), "script.py")

        assert (traced.code, traced.out) == (2, "")
        assert "full" in traced.err
        assert list(small.iterdir()) == []


UNWRITABLE = {
    "a folder that does not exist": "no/such/folder/run.trace",
    "a folder": "taken.trace",
    "a file inside a file": "script.py/run.trace",
    "a name that is too long": "x" * 300 + ".trace",
    "a device that is always full": "/dev/full/run.trace",
}


@pytest.mark.parametrize("place", UNWRITABLE)
def test_an_output_that_is_impossible_is_told_before_the_script_runs(
    folder: Folder, place: str
) -> None:
    folder.write("script.py", "print('it ran')")
    (folder.path / "taken.trace").mkdir()

    ended = folder.traced("-o", UNWRITABLE[place], "script.py")

    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("gradtrace: ")


def test_a_folder_that_is_read_only_is_told_before_the_script_runs(folder: Folder) -> None:
    folder.write("script.py", "print('it ran')")

    with read_only(folder.path / "kept") as kept:
        traced = folder.traced("-o", str(kept / "run.trace"), "script.py")

    assert (traced.code, traced.out) == (2, "")
    assert len(traced.err.splitlines()) == 1


@contextmanager
def read_only(place: Path) -> Iterator[Path]:
    """A folder that nobody may write to; root may everywhere but on a disk that is read-only."""
    if os.geteuid() == 0:
        with disk(place, 700, "ro"):
            yield place
    else:
        place.mkdir(mode=0o500)
        yield place


SURROUNDINGS: Mapping[str, Mapping[str, str | None]] = {
    "no home": {"HOME": None},
    "a home that does not exist": {"HOME": "/nonexistent"},
    "no path": {"PATH": ""},
    "plain ASCII": {
        "LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    },
    "Latin-1": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "no temporary folder": {"TMPDIR": "/nonexistent"},
    "no colours": {"NO_COLOR": "1", "TERM": "dumb"},
    "one column": {"COLUMNS": "1", "LINES": "1"},
    "nonsense for numbers": {"RANK": "x", "WORLD_SIZE": "", "COLUMNS": "x"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
    "warnings as errors": {"PYTHONWARNINGS": "error::UserWarning"},
    "development mode": {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "ignore"},
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_change_nothing(folder: Folder, name: str) -> None:
    folder.write("script.py", SHORT)
    environment = without({**os.environ, **SURROUNDINGS[name]})

    plain = run(folder, environment, "script.py")
    traced = run(folder, environment, str(folder.cli_path), "trace", "script.py")

    assert_same(plain, traced)
    assert "3 backward calls in 3 steps" in traced.summary
    assert "Traceback" not in traced.err
    assert (folder.path / "script.svg").exists()
    for words in (["explain", "script.trace"], ["graph", "script.trace"], ["info", "script.trace"]):
        assert run(folder, environment, str(folder.cli_path), *words).code == 0


def without(environment: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if value is not None}


def run(folder: Folder, environment: Mapping[str, str], *words: str) -> Ended:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder.path, env=environment, capture_output=True,
        timeout=100, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))


def test_without_any_layout_program_the_picture_alone_is_missing(folder: Folder) -> None:
    folder.write("script.py", SHORT)
    folder.write("graphviz_pure.py", "raise ImportError('not installed')")
    nothing = {"PATH": "", "GRADTRACE_DOT": "/nonexistent/dot", "PYTHONPATH": str(folder.path)}

    traced = folder.cli("trace", "script.py", environment=nothing)

    assert traced.code == 0
    assert traced.out == folder.python("script.py").out
    assert not (folder.path / "script.svg").exists()
    assert "Traceback" not in traced.err


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", ["with spaces.py", "größe.py", "漢字.py", 'quote\'s "two".py', "-dash.py", "a\nb.py"]
)
def test_a_script_may_be_called_anything(folder: Folder, name: str) -> None:
    folder.write(f"a folder/{name}", SHORT)
    path = f"a folder/{name}"

    traced = folder.cli("trace", path)

    assert_same(folder.python(path), traced)
    assert sorted(file.suffix for file in folder.path.glob("*")) == ["", ".svg", ".trace"]


@pytest.mark.sweep
def test_a_script_whose_name_is_no_text_runs(folder: Folder) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    try:
        folder.write(name, SHORT)
    except OSError:
        pytest.skip("this file system takes text only")

    assert_same(folder.python(name), folder.cli("trace", name))


def test_a_script_that_was_edited_since_is_quoted_as_it_ran(folder: Folder) -> None:
    folder.write("script.py", SHORT)
    before = folder.traced("script.py")
    first = folder.cli("explain", "script.trace").out
    folder.write("script.py", "a_secret = 1\n" * 40)

    assert "model(torch.ones(2, 3)).mean()" in before.summary
    assert "model(torch.ones(2, 3)).mean()" in first
    assert folder.cli("explain", "script.trace").out == first


def test_two_runs_do_not_write_one_trace(folder: Folder) -> None:
    folder.write(
        "waits.py",
        "import pathlib, time\npathlib.Path('ready').touch()\n"
        "while not pathlib.Path('go').exists():\n    time.sleep(0.02)\n" + SHORT,
    )
    folder.write("script.py", SHORT)
    first = folder.start_traced("-o", "run.trace", "waits.py")
    while not (folder.path / "ready").exists():
        assert first.poll() is None

    second = folder.traced("-o", "run.trace", "script.py")
    (folder.path / "go").touch()
    out, err = first.communicate(timeout=60)

    assert second.code == 2
    assert second.out == ""
    assert "being written by another run" in second.err
    assert "3 backward calls in 3 steps" in err
    assert out == folder.python("script.py").out
    with folder.trace("run.trace") as trace:
        assert len(trace.calls) == 3


ENDINGS = {
    "exits at once": "import os; os._exit(7)",
    "kills itself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "is terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "is interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "aborts": "import os; os.abort()",
    "ignores a termination": (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    ),
    "handles a termination": (
        "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    ),
    "forks": (
        "import os\nchild = os.fork()\nstep()\n"
        "if child: print(os.waitpid(child, 0)[1]); step()\nelse: os._exit(3)"
    ),
    "forks, and the child lives longer": (
        "import os, sys, time\nif not os.fork():\n    time.sleep(0.3)\n    step()\n    sys.exit(1)"
    ),
    "exits in a thread": (
        "import sys, threading\nt = threading.Thread(target=lambda: (step(), sys.exit(4)))\n"
        "t.start(); t.join(); print('on')"
    ),
    "closes its output": "import sys; sys.stdout.close(); sys.stderr.close()",
    "closes the descriptors": "import os; os.close(1); os.close(2)",
    "closes every descriptor": "import os; os.closerange(3, 200); step()",
    "removes its folder": "import os, shutil; shutil.rmtree(os.getcwd()); step()",
    "goes elsewhere": "import os; os.chdir('/'); step()",
    "removes the trace": "import glob, os; [os.remove(f) for f in glob.glob('*.trace*')]; step()",
    "empties what we put in sys": "import sys; sys.meta_path.clear(); sys.path_hooks.clear()",
    "raises with a note": "e = ValueError('x'); e.add_note('note'); raise e",
    "replaces its excepthook": "import sys; sys.excepthook = lambda *a: print('mine'); 1 / 0",
    "runs out of recursion": "def f(): f()\nf()",
    "runs out of memory": "raise MemoryError",
    "unregisters everything": "import atexit; atexit._clear(); step()",
    "runs atexit early": "import atexit; atexit._run_exitfuncs(); step()",
    "turns the collector off": "import gc; gc.disable(); step(); print(gc.isenabled())",
    "limits recursion": "import sys; sys.setrecursionlimit(80); step()",
    "traces itself": "import sys; sys.settrace(lambda *a: None); step(); sys.settrace(None)",
    "profiles itself": "import cProfile; p = cProfile.Profile(); p.runcall(step); print('ok')",
    "leaves a thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), step(), print('late'))).start()"
    ),
    "leaves a daemon": (
        "import threading, time\n"
        "def train():\n    step()\n    time.sleep(100)\n"
        "threading.Thread(target=train, daemon=True).start(); time.sleep(1)"
    ),
}


def comparable(err: str) -> str:
    """Without what differs between any two runs, and how many frames there were below a script."""
    err = re.sub(r"0x[0-9a-f]+", "0x", err.replace("/traced/", "/plain/"))
    return re.sub(r"repeated 9\d\d more times", "repeated 9.. more times", err)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ENDINGS)
def test_however_a_script_ends_it_ends_as_alone(folder: Folder, name: str) -> None:
    text = TRAINING + "step()\nprint(model.weight.tolist(), flush=True)\n" + ENDINGS[name]
    ended = []
    for kind in ("plain", "traced"):
        own = Folder(folder.path / kind)
        own.write("script.py", text)
        ended.append(own.python("script.py") if kind == "plain" else own.traced("script.py"))

    plain, traced = ended
    assert traced.code == plain.code
    assert traced.out == plain.out.replace("/plain/", "/traced/")
    assert comparable(traced.own_err) == comparable(plain.err)
    trace = folder.path / "traced" / "script.trace"
    if trace.exists():
        with load(trace) as found:
            assert found.calls
            assert check_balance(found).is_balanced


@pytest.mark.sweep
def test_a_broken_pipe_of_the_script_is_the_scripts(folder: Folder) -> None:
    folder.write("script.py", TRAINING + "step()\nfor n in range(100000): print(n)\nstep()\n")

    def piped(*words: str) -> tuple[int, str]:
        process = folder.start(*words)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        return process.wait(100), process.stderr.read()

    plain = piped("script.py")
    traced = piped(str(folder.cli_path), "trace", "--no-svg", "script.py")

    assert plain[0] == traced[0]
    assert plain[1] == traced[1].partition("gradtrace: ")[0]


@pytest.mark.sweep
@pytest.mark.parametrize("stream", [1, 2])
def test_a_full_device_as_output_is_the_scripts_problem(folder: Folder, stream: int) -> None:
    folder.write("script.py", SHORT)

    def code_of(*words: str) -> int:
        with open("/dev/full", "w") as full:
            streams = {1: {"stdout": full, "stderr": subprocess.DEVNULL}}.get(
                stream, {"stderr": full, "stdout": subprocess.DEVNULL}
            )
            return subprocess.run(
                [sys.executable, *words], cwd=folder.path, timeout=100, check=False, **streams
            ).returncode

    assert code_of("script.py") == code_of(str(folder.cli_path), "trace", "script.py")
