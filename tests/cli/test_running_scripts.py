"""`gradtrace trace script.py` is `python script.py`, for every way in which a script can end.

Most of these scripts do not import torch: the tracer imports it only where the script does, so
they show the runner alone, and fast.
"""

from __future__ import annotations

import signal
import zipfile

import pytest

from tests.cli.conftest import Folder, assert_same

SCRIPTS = {
    "ends_well": "print('hello')",
    "exits_with_a_number": "import sys; sys.exit(7)",
    "exits_with_a_large_number": "import sys; sys.exit(2**70 + 3)",
    "exits_with_minus_one": "import sys; sys.exit(-1)",
    "exits_with_a_text": "import sys; sys.exit('it is over')",
    "exits_with_nothing": "import sys; sys.exit()",
    "exits_with_true": "raise SystemExit(True)",
    "exits_at_once": "import os; print('x', flush=True); os._exit(3)",
    "raises": "def f():\n    return 1 / 0\n\nf()",
    "raises_while_handling": """
        def f():
            try:
                1 / 0
            except ZeroDivisionError:
                raise KeyError("a key")

        try:
            f()
        except KeyError as error:
            raise RuntimeError("both") from error
        """,
    "raises_a_group": """
        raise ExceptionGroup("two", [ValueError(1), TypeError(2)])
        """,
    "is_no_python": "print('before')\nfor for\n",
    "has_bad_indentation": "if True:\nprint(1)\n",
    "imports_a_module_that_is_missing": "import no_such_module_at_all",
    "formats_its_traceback": """
        import traceback

        try:
            1 / 0
        except ZeroDivisionError:
            print(traceback.format_exc())
        """,
    "has_an_excepthook": """
        import sys

        def hook(kind, error, traceback):
            print("hook", kind.__name__, traceback.tb_lineno, sys.exc_info(), error.__context__)

        sys.excepthook = hook
        1 / 0
        """,
    "has_an_excepthook_that_raises": """
        import sys

        def hook(kind, error, traceback):
            raise ValueError("in the hook")

        sys.excepthook = hook
        1 / 0
        """,
    "has_an_excepthook_that_exits": """
        import sys

        sys.excepthook = lambda *_: sys.exit(9)
        1 / 0
        """,
    "registers_atexit_handlers": """
        import atexit, sys

        atexit.register(print, "first registered")
        atexit.register(print, "last registered")
        print("end of the script")
        sys.exit(3)
        """,
    "raises_in_an_atexit_handler": """
        import atexit

        @atexit.register
        def leave():
            1 / 0
        """,
    "leaves_a_thread_running": """
        import threading, time

        def work():
            time.sleep(0.3)
            print("the thread is done")

        threading.Thread(target=work).start()
        print("the main thread is done")
        """,
    "raises_in_a_thread": """
        import threading

        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        print("on it goes")
        """,
    "looks_at_main": """
        import sys

        names = sorted(k for k in globals() if k != "sys")
        print(names, __name__, __file__, __spec__, __package__, __cached__, __annotations__)
        print(type(__loader__).__name__, __builtins__.__name__, sys.modules["__main__"].names)
        print(sys.argv, sys.path[0], "torch" in sys.modules, "networkx" in sys.modules)
        """,
    "pickles_its_classes": """
        import pickle

        class Thing:
            pass

        thing = pickle.loads(pickle.dumps(Thing()))
        print(type(thing) is Thing, Thing.__module__)
        """,
    "shows_its_source": """
        import inspect

        def f():
            return 1

        print(inspect.getsource(f))
        """,
    "forks": """
        import os, sys

        child = os.fork()
        if child == 0:
            print("child", flush=True)
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    "forks_and_the_child_raises": """
        import os

        child = os.fork()
        if child == 0:
            raise ValueError("in the child")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    "closes_both_outputs": "import sys; sys.stdout.close(); sys.stderr.close()",
    "closes_standard_error": "import sys; sys.stderr.close(); print('quiet')",
    "replaces_standard_error": """
        import io, sys

        sys.stderr = io.StringIO()
        sys.exit("nobody sees this")
        """,
    "leaves_its_folder": "import os; os.mkdir('deep'); os.chdir('deep'); os.rmdir('../deep')",
    "sets_signals": "import signal; print(signal.getsignal(signal.SIGTERM), signal.getsignal(2))",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_the_same_traced_that(folder: Folder, name: str) -> None:
    folder.write("script.py", SCRIPTS[name])

    assert_same(folder.python("script.py"), folder.traced("script.py"))


def test_arguments_reach_the_script_as_they_were_typed(folder: Folder) -> None:
    folder.write("script.py", "import sys; print(sys.argv)")
    words = ("./script.py", "--output", "x", "--", "-h", "-m", "--steps=nonsense", "", "-")

    assert_same(folder.python(*words), folder.traced(*words))


def test_standard_input_is_the_scripts(folder: Folder) -> None:
    folder.write("script.py", "import sys; print(input() + sys.stdin.read())")

    traced = folder.traced("script.py", stdin="a\nb\nc")

    assert_same(folder.python("script.py", stdin="a\nb\nc"), traced)
    assert traced.out == "ab\nc\n"


def test_modules_beside_the_script_are_found_from_another_folder(folder: Folder) -> None:
    folder.write("deep/script.py", "import sibling; print(open('here').read(), sibling.__file__)")
    folder.write("deep/sibling.py", "print('imported')")
    folder.write("here", "relative")

    assert_same(folder.python("deep/script.py"), folder.traced("deep/script.py"))


def test_a_linked_script_finds_the_modules_of_its_true_folder(folder: Folder) -> None:
    folder.write("true/script.py", "import sibling, sys; print(sys.path[0], __file__)")
    folder.write("true/sibling.py", "")
    (folder.path / "link.py").symlink_to("true/script.py")

    assert_same(folder.python("link.py"), folder.traced("link.py"))


def test_a_python_that_adds_no_folder_gets_none(folder: Folder) -> None:
    folder.write("script.py", "import sibling")
    folder.write("sibling.py", "print('never')")
    safe = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(folder.cli_path.parent)}

    plain = folder.python("script.py", environment=safe)

    assert_same(plain, folder.traced("script.py", environment=safe))
    assert plain.code == 1


MODULE = """
import sys
from . import sibling

print(__name__, __package__, __spec__.name, __file__, sys.argv, sys.path[0], sibling.__name__)
"""


@pytest.mark.parametrize("name", ["package.module", "package", "package.__main__"])
def test_a_module_runs_as_with_python_m(folder: Folder, name: str) -> None:
    folder.write("package/__init__.py", "import sys; print('package', sys.argv)")
    folder.write("package/sibling.py", "")
    folder.write("package/module.py", MODULE)
    folder.write("package/__main__.py", MODULE)

    assert_same(folder.python("-m", name, "-m", "x"), folder.traced("-m", name, "-m", "x"))


def test_a_module_that_raises_shows_its_own_frames_only(folder: Folder) -> None:
    folder.write("package/module.py", "def f():\n    1 / 0\n\nf()")

    plain = folder.python("-m", "package.module")
    traced = folder.traced("-m", "package.module")

    own_lines = [line for line in plain.err.splitlines() if "runpy" not in line]
    assert traced.own_err.splitlines() == own_lines
    assert traced.code == plain.code == 1


def test_a_folder_with_a_main_runs(folder: Folder) -> None:
    folder.write("app/__main__.py", "import sys, other; print(sys.argv, __spec__.name, __file__)")
    folder.write("app/other.py", "")

    assert_same(folder.python("app", "x"), folder.traced("app", "x"))


def test_an_archive_with_a_main_runs(folder: Folder) -> None:
    with zipfile.ZipFile(folder.path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "import sys, other; print(sys.argv, __file__)")
        archive.writestr("other.py", "")

    assert_same(folder.python("app.pyz", "x"), folder.traced("app.pyz", "x"))


def test_an_ascii_locale_changes_nothing(folder: Folder) -> None:
    folder.write("script.py", "raise ValueError('größer')")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

    plain = folder.python("script.py", environment=ascii_only)

    assert_same(plain, folder.traced("script.py", environment=ascii_only))
    assert "gr\\xf6" in plain.err


def test_a_declared_encoding_is_honoured(folder: Folder) -> None:
    (folder.path / "script.py").write_bytes(b"# coding: latin-1\nprint(ascii('gr\xf6\xdfer'))")

    assert_same(folder.python("script.py"), folder.traced("script.py"))


WAITING = """
import pathlib, time

try:
    pathlib.Path("ready").touch()
    time.sleep(60)
finally:
    print("tidied up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_script_as_it_would_alone(folder: Folder, number: signal.Signals) -> None:
    folder.write("script.py", WAITING)

    plain = folder.interrupt_when_ready(folder.start("script.py"), number)
    traced = folder.interrupt_when_ready(folder.start_traced("script.py"), number)

    assert_same(plain, traced)
    assert plain.code == -number


def test_an_interrupt_through_python_m_ends_it_too(folder: Folder) -> None:
    folder.write("script.py", WAITING)
    environment = {"PYTHONPATH": str(folder.cli_path.parent)}
    process = folder.start("-m", "tracer", "trace", "script.py", environment=environment)

    assert folder.interrupt_when_ready(process, signal.SIGINT).code == -signal.SIGINT


SPAWNING = """
import multiprocessing, sys

class Thing:
    def __init__(self, value):
        self.value = value

def double(thing):
    return Thing(2 * thing.value)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        print([thing.value for thing in pool.map(double, map(Thing, range(4)))])
    process = context.Process(target=sys.exit, args=(4,))
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_start_as_they_would_alone(folder: Folder, method: str) -> None:
    folder.write("script.py", SPAWNING)

    plain = folder.python("script.py", method)

    assert_same(plain, folder.traced("script.py", method))
    assert plain.out == "[0, 2, 4, 6]\n4\n"


def test_processes_of_a_module_start_as_they_would_alone(folder: Folder) -> None:
    folder.write("package/module.py", SPAWNING)

    words = ("-m", "package.module", "spawn")

    assert_same(folder.python(*words), folder.traced(*words))
