"""Runs an unmodified script as `python script.py` would, and starts recording when it loads torch.

The script must not notice: it is `__main__`, its folder comes first on `sys.path`, `torch` is
imported when the script imports it and not before (what it sets in `os.environ` above that line
still counts), its exit code passes through, and its traceback shows its own frames only.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from tracer.errors import WrongUse

__all__ = ["Ending", "Target", "TorchWatch", "hide_tracer", "run"]

OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OWN_SHIM = os.path.join(os.path.dirname(OWN_FOLDER), "cli.py")


CUDA_IS_MISSING = (
    "Torch not compiled with CUDA enabled",
    "Found no NVIDIA driver on your system",
    "No CUDA GPUs are available",
    "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False",
)
"""What torch says to a script that needs a GPU on a machine without one."""


@dataclass(frozen=True)
class Target:
    """What to run: a script, a folder or archive with a `__main__.py`, or a module (`-m`)."""

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    @property
    def stem(self) -> str:
        """What its trace is called: the script's stem, a module's last name part."""
        if self.is_module:
            return self.name.removesuffix(".__main__").rpartition(".")[2]
        return Path(os.path.abspath(self.name)).stem

    def check(self) -> None:
        """Say what is wrong with it before anything runs.

        Raises:
            WrongUse: no such script or module.
        """
        if self.is_module:
            _put_first(os.getcwd())
            if self._top() is None:
                raise _no_module(self.name)
            return
        try:
            if not os.path.isdir(self.name):
                with open(self.name, "rb"):
                    pass
        except OSError as error:
            raise WrongUse(
                "wrong-use",
                f"can't open file {self.name!r}: [Errno {error.errno}] {error.strerror}; "
                "expected a Python script, or -m and the name of a module",
            ) from error

    def source_file(self) -> Path | None:
        """The file whose head may hold inline metadata; found without running anything."""
        if not self.is_module:
            path = Path(self.name)
            return path / "__main__.py" if path.is_dir() else path
        spec = self._top()
        name, *parts = self.name.split(".")
        for part in parts:
            name = f"{name}.{part}"
            spec = _inside(spec, name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = _inside(spec, f"{name}.__main__")
        return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None

    def hidden_module(self) -> str | None:
        """A module `tracer` of the user's: ours is loaded, so the script would not find its own."""
        folder = os.getcwd() if self.is_module else os.path.dirname(os.path.realpath(self.name))
        spec = PathFinder.find_spec("tracer", [folder])
        origin = spec.origin if spec is not None else None
        return None if origin is None or _is_ours(os.path.abspath(origin)) else origin

    def _top(self) -> ModuleSpec | None:
        top = self.name.partition(".")[0]
        try:
            return importlib.util.find_spec(top) if top else None
        except ValueError:  # a module that is loaded already and has no spec
            return None


def _inside(package: ModuleSpec | None, name: str) -> ModuleSpec | None:
    locations = package.submodule_search_locations if package is not None else None
    return PathFinder.find_spec(name, list(locations)) if locations is not None else None


@dataclass(frozen=True)
class Ending:
    """How a script ended: `status` as in `RunInfo`, the exit code, whether Ctrl-C ended it.

    `misses_cuda`: an exception ended it that torch raises where there is no GPU.
    """

    status: str
    exit_code: int
    interrupted: bool = False
    misses_cuda: bool = False


def run(target: Target) -> Ending:
    """Run it as `__main__` and report an uncaught exception as the interpreter would.

    Raises:
        WrongUse: there is nothing to run.
    """
    original_hook = threading.excepthook
    threading.excepthook = _without_tracer(original_hook)
    uncaught: BaseException | None = None
    try:
        module, code = _prepare(target)
        exec(code, module.__dict__)  # noqa: S102 - that is what this program is for
    except WrongUse:
        raise
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        uncaught = error
    # Outside of `except`: a hook of the script must not find our exception being handled.
    return Ending("finished", 0) if uncaught is None else _end(uncaught)


def _prepare(target: Target) -> tuple[ModuleType, CodeType]:
    """The module `__main__` in its place, and the code to run in it."""
    module = ModuleType("__main__")
    module.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    sys.modules["__main__"] = module
    if target.is_module:
        return module, _prepare_module(target, module)
    importer = pkgutil.get_importer(os.fsdecode(target.name))
    if importer is not None:
        return module, _prepare_archive(target, module, importer)
    return module, _prepare_script(target, module)


def _prepare_script(target: Target, module: ModuleType) -> CodeType:
    # Python makes the name absolute and leaves it otherwise as it was typed: "/home/me/./train.py".
    file = os.path.join(os.getcwd(), target.name)
    sys.argv = [target.name, *target.arguments]
    _put_first(os.path.dirname(os.path.realpath(file)))
    module.__file__ = file
    module.__dict__["__cached__"] = None
    module.__loader__ = SourceFileLoader("__main__", file)
    with open(file, "rb") as script:
        return compile(script.read(), file, "exec", dont_inherit=True)


def _prepare_archive(target: Target, module: ModuleType, importer: Any) -> CodeType:
    folder = os.path.join(os.getcwd(), target.name)
    sys.argv = [target.name, *target.arguments]
    _put_first(folder, even_if_safe=True)
    spec = pkgutil.get_importer(folder).find_spec("__main__") if importer else None  # type: ignore[union-attr]
    if spec is None:
        raise WrongUse("wrong-use", f"can't find a '__main__' module in {target.name!r}")
    return _take_spec(module, spec)


def _prepare_module(target: Target, module: ModuleType) -> CodeType:
    _put_first(os.getcwd())
    sys.argv = ["-m", *target.arguments]
    spec = _find_module(target.name)
    code = _take_spec(module, spec)
    sys.argv[0] = spec.origin or target.name
    return code


def _find_module(name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # A missing parent is a wrong name; one that fails to import something is the user's bug.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise _no_module(name) from error
        raise
    if spec is not None and spec.submodule_search_locations is not None:
        return _find_module(f"{name}.__main__")
    if spec is None:
        raise _no_module(name)
    return spec


def _no_module(name: str) -> WrongUse:
    shown = name.removesuffix(".__main__")
    why = "; it is a package without a __main__ module" if shown != name else ""
    return WrongUse(
        "wrong-use",
        f"No module named {shown!r} that can be run{why}: expected what `python -m` would run",
    )


def _take_spec(module: ModuleType, spec: ModuleSpec) -> CodeType:
    """Make `__main__` what runpy makes it; the code of the spec."""
    loader: Any = spec.loader
    code = loader.get_code(spec.name) if hasattr(loader, "get_code") else None
    if code is None:
        raise WrongUse("wrong-use", f"{spec.name!r} holds no Python code to run")
    module.__dict__.update(
        __file__=spec.origin,
        __cached__=spec.cached,
        __loader__=loader,
        __package__=spec.parent,
        __spec__=spec,
    )
    if not spec.has_location:
        module.__dict__.pop("__file__")
    return code  # type: ignore[no-any-return]


def _put_first(folder: str, even_if_safe: bool = False) -> None:
    """The script's folder in the place where Python put ours (nowhere, if it runs with -P)."""
    if not sys.flags.safe_path:
        sys.path[0] = folder
    elif even_if_safe:
        sys.path.insert(0, folder)


def _end(error: BaseException) -> Ending:
    if isinstance(error, SystemExit):
        return Ending("finished", _exit_code(error))
    hide_tracer(error)
    code = _show(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    misses_cuda = any(text in str(error) for text in CUDA_IS_MISSING)
    return Ending("crashed", 130 if interrupted else code, interrupted, misses_cuda)


def _exit_code(error: SystemExit) -> int:
    """The interpreter's way: None is 0, a number itself, anything else is said and is 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return int(error.code)
    if sys.stderr is not None:
        print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> int:
    """Hand an uncaught exception to `sys.excepthook`, the script's own if it set one."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    failure: BaseException | None = None
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as raised:  # noqa: BLE001
        failure = raised
    if isinstance(failure, SystemExit):
        return _exit_code(failure)
    if failure is not None:
        hide_tracer(failure)
        print("Error in sys.excepthook:", file=sys.stderr)
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)
    return 1


def _without_tracer(
    hook: Callable[[threading.ExceptHookArgs], object],
) -> Callable[[threading.ExceptHookArgs], object]:
    def excepthook(arguments: threading.ExceptHookArgs) -> object:
        error = arguments.exc_value
        if error is None:
            return hook(arguments)
        hide_tracer(error)
        shown = (arguments.exc_type, error, error.__traceback__, arguments.thread)
        return hook(threading.ExceptHookArgs(shown))

    return excepthook


def hide_tracer(error: BaseException) -> None:
    """Unlink our frames from the traceback of an exception and of all that it came from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        error.__traceback__ = _users_part(error.__traceback__)
        waiting += _behind(error)


def _behind(error: BaseException) -> Iterator[BaseException]:
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield other
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    frames: list[TracebackType] = []
    while traceback is not None:
        machinery = not frames and traceback.tb_frame.f_code.co_filename.startswith("<frozen ")
        if not machinery and not _is_ours(traceback.tb_frame.f_code.co_filename):
            frames.append(traceback)
        traceback = traceback.tb_next
    following: TracebackType | None = None
    for frame in reversed(frames):
        frame.tb_next = following
        following = frame
    return following


def _is_ours(file: str) -> bool:
    return file.startswith(OWN_FOLDER + os.sep) or file == OWN_SHIM


class TorchWatch(MetaPathFinder):
    """Calls `action` once, when torch has just been imported; at once if it was already.

    It stays in `sys.meta_path` until torch is there: `find_spec("torch")`, which transformers and
    accelerate call to see whether torch is installed, finds it as ever and imports nothing.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._process = os.getpid()
        self._done = False

    def start(self) -> None:
        if "torch" in sys.modules:
            self._act()
        else:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find and finder is not self else None
            if spec is not None:
                self._follow(spec.loader)
                return spec  # type: ignore[no-any-return]
        return None

    def _follow(self, loader: Loader | None) -> None:
        """Act after this loader has run torch. The loader keeps its class: code looks at it."""
        if loader is None or not hasattr(loader, "exec_module"):
            return
        plain: Callable[[ModuleType], None] = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            plain(module)
            self.stop()
            self._act()

        loader.exec_module = exec_module  # type: ignore[method-assign]

    def _act(self) -> None:
        if not self._done and os.getpid() == self._process:
            self._done = True
            self._action()


def read_text(file: Path) -> str:
    """The text of a script, in the encoding that it declares; "" if it cannot be read."""
    try:
        return importlib.util.decode_source(file.read_bytes())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
