"""The user's line, and the module, that an autograd node comes from.

NOTE [Watching nodes being made]
Torch has one place where Python is told of every new autograd node, in whatever thread, made by
whatever composite function: anomaly mode. While it is on, the constructor of a node calls
`torch.fx.traceback.format_stack` and keeps the list it returns in the node's `metadata`, under
"traceback_" (torch/csrc/autograd/python_anomaly_mode.cpp). We turn that on, without its search for
NaN, and let `format_stack` return an empty list that carries our `Origin`. Unlike a
TorchFunctionMode this leaves the dispatch of the user's operators, `torch.compile` and the fast
paths of `nn.Transformer` as they are, and it costs microseconds, not a formatted traceback.

The user must not notice: `is_anomaly_enabled` and its like answer with the user's own setting;
where the user turns anomaly mode on, the true traceback is in the list as well; and as a failing
backward prints the forward traceback while the mode is on, it is off while the engine runs, except
inside a Python `autograd.Function` (which may build graphs: reentrant checkpointing), when
create_graph asks for a graph, and when other threads may be building theirs.
"""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
import torch.fx.traceback
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import saved_tensors_hooks

from tracer.events import Source
from tracer.record.blocks import assignments_before, blocks_around
from tracer.record.complaints import AsWithoutAnomaly
from tracer.record.journal import Journal
from tracer.record.modules import Modules
from tracer.record.patches import Patches

__all__ = [
    "UNKNOWN",
    "Mark",
    "NodeWatch",
    "Origin",
    "SavedTensorHooks",
    "Sources",
    "origin_of",
]

KEPT_LINES = 12
"""How many lines of the user are kept, outward from the innermost."""

MOST_CODES = 10_000
"""Code that a script makes anew again and again is not all kept."""

LIBRARY, CALLING, DROPPING, RUNNER = range(-4, 0)
"""Code that is not the user's: of others, of them what calls a module and what drops values, and
ours that runs the script. That of the user is numbered from 0."""

PLUMBING = frozenset(
    ["wrapper", "wrapped", "inner", "decorate_context", "decorate_autocast", "apply", "backward"]
)
"""Functions of torch that wrap others: their names say nothing about the operation."""

DROPPERS = frozenset(
    ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]
)
"""Functions of torch that drop values at a rate `p`, which no node of theirs keeps."""


class Origin(NamedTuple):
    """Where a node comes from: ids in the journal; `lazy` where its saved tensors have hooks.

    `number` tells those apart that differ, in all recordings of this process.
    """

    source: int | None
    module: int | None
    called: str
    lazy: bool
    number: int


_numbers = itertools.count()

UNKNOWN = Origin(None, None, "", True, next(_numbers))


class Mark(list[str]):
    """What we leave in a node's metadata: a traceback for torch, an origin for us."""

    __slots__ = ("origin",)

    origin: Origin


def origin_of(node: Any) -> Origin:
    """The origin of a node, UNKNOWN if it was made while nobody watched."""
    mark = node.metadata.get("traceback_")
    return mark.origin if type(mark) is Mark else UNKNOWN


class SavedTensorHooks:
    """Whether what nodes save now goes through hooks: offloading, checkpointing.

    Newer torch can be asked (2.6 cannot); there the blocks that place hooks are counted.
    """

    def __init__(self) -> None:
        self._patches = Patches()
        self._depth = threading.local()
        self._ask: Callable[[bool], object] | None = getattr(
            torch._C._autograd, "_top_saved_tensors_default_hooks", None
        )

    def start(self) -> None:
        if self._ask is not None:
            return
        enter, leave = saved_tensors_hooks.__enter__, saved_tensors_hooks.__exit__

        def entering(hooks: saved_tensors_hooks) -> None:
            enter(hooks)
            self._depth.count = getattr(self._depth, "count", 0) + 1

        def leaving(hooks: saved_tensors_hooks, *error: object) -> None:
            self._depth.count -= 1
            leave(hooks, *error)

        self._patches.replace(saved_tensors_hooks, "__enter__", entering)
        self._patches.replace(saved_tensors_hooks, "__exit__", leaving)

    def stop(self) -> None:
        self._patches.restore()

    def is_hooked(self) -> bool:
        if self._ask is not None:
            return self._ask(True) is not None
        return getattr(self._depth, "count", 0) > 0


class Sources:
    """Tells the user's lines from those of torch, the standard library and ourselves."""

    def __init__(self, journal: Journal, modules: Modules, saving: SavedTensorHooks) -> None:
        self._journal = journal
        self._modules = modules
        self._saving = saving
        self._codes = _Codes(self._judge)
        self._known: dict[tuple[int, ...], int] = {}
        self._origins: dict[tuple[object, ...], Origin] = {}
        self._same: dict[tuple[object, ...], Origin] = {}
        here = os.path.dirname(os.path.abspath(__file__))
        self._runner = os.path.join(here, "script.py")
        paths = sysconfig.get_paths()
        self._packages = (paths["purelib"], paths["platlib"])
        libraries = (os.path.dirname(torch.__file__), os.path.dirname(here))
        self._libraries = tuple(path + os.sep for path in libraries)
        self._standard = (paths["stdlib"] + os.sep, paths["platstdlib"] + os.sep)

    def _judge(self, code: CodeType) -> int:
        """Whose code it is; any number from 0 for the user's."""
        file = code.co_filename
        if file == self._runner:
            return RUNNER
        is_theirs = file.startswith((*self._libraries, "<frozen ")) or (
            file.startswith(self._standard) and not file.startswith(self._packages)
        )
        if code is self._modules.call_code:
            return CALLING
        if is_theirs:
            return DROPPING if code.co_name in DROPPERS else LIBRARY
        return 0

    def below(self, frame: FrameType | None) -> int:
        """How many frames there are from the outermost to that of ours which runs the script."""
        found = 0
        while frame is not None:
            if found or self._codes.number(frame.f_code) == RUNNER:
                found += 1
            frame = frame.f_back
        return found

    def lines(self, frame: FrameType | None) -> list[FrameType]:
        """The frames of the user, innermost first, no further out than where the script began."""
        frames: list[FrameType] = []
        number_of = self._codes.number
        while frame is not None and len(frames) < KEPT_LINES:
            number = number_of(frame.f_code)
            if number >= 0:
                frames.append(frame)
            elif number == RUNNER:
                break
            frame = frame.f_back
        return frames

    def place(self, frame: FrameType) -> tuple[int, int]:
        """A number for the code that runs in a frame, and where in it; equal for equal code."""
        return self._codes.number(frame.f_code), frame.f_lasti

    def here(self, frame: FrameType | None) -> int | None:
        """The id of the user's line around a frame, None where there is none."""
        return self.innermost(self.lines(frame))

    def innermost(self, frames: list[FrameType]) -> int | None:
        """The id of the line of the first of these frames of the user."""
        number_of = self._codes.number
        key = tuple([n for frame in frames for n in (number_of(frame.f_code), frame.f_lasti)])
        source = self._known.get(key)
        if source is None and frames:
            for frame in reversed(frames):
                source = self._intern(frame, source)
            assert source is not None
            self._known[key] = source
        return source

    def _intern(self, frame: FrameType, caller: int | None) -> int:
        code = frame.f_code
        key = (code.co_filename, frame.f_lineno, code.co_qualname, caller)
        return self._journal.intern(Source, key, lambda id: Source(id, *key, *_stood(*key[:2])))

    def origin(self, frame: FrameType | None) -> Origin:
        """The user's line, the module and the torch function that a frame belongs to."""
        frames: list[FrameType] = []
        places: list[int] = []
        called, module, rate = "", None, ""
        numbers = self._codes.numbers
        while frame is not None:
            code = frame.f_code
            number = numbers.get(id(code))
            if number is None:
                number = self._codes.number(code)
            if number >= 0:
                if len(frames) < KEPT_LINES:
                    frames.append(frame)
                    places += (number, frame.f_lasti)
                    if len(frames) == KEPT_LINES and module is not None:
                        break
            elif number == CALLING:
                if not frames:
                    called = ""
                if module is None:
                    module = frame
                    if len(frames) == KEPT_LINES:
                        break
            elif number == RUNNER:
                break
            elif not frames:
                called = code.co_name
                if number == DROPPING:
                    rate = _rate(frame)
            frame = frame.f_back
        owner = None if module is None else self._modules.of_call(module, frames)
        # One object for all that are alike: graphs have 10^6 nodes.
        lazy = self._saving.is_hooked()
        key = (owner, called, rate, lazy, *places)
        found = self._origins.get(key)
        if found is None:
            if called.startswith("_") or called in PLUMBING:
                called = ""
            if rate and (not called or called in DROPPERS):
                called = f"{called or 'dropout'}({rate})"
            told = (self.innermost(frames), owner, called, lazy)
            found = self._same.setdefault(told, Origin(*told, next(_numbers)))
            self._origins[key] = found
        return found


class _Codes:
    """Numbers for code, found by the object: to hash code takes longer than all else of a frame.

    Code that is equal has one number, however often it is made anew.
    """

    def __init__(self, judge: Callable[[CodeType], int]) -> None:
        self.numbers: dict[int, int] = {}
        """By the id of a code object that is held here."""
        self._held: list[CodeType] = []
        self._lock = threading.RLock()  # a finalizer may come back here
        self._judge = judge
        self._users: dict[CodeType, int] = {}

    def number(self, code: CodeType) -> int:
        """Less than 0 where it is not the user's."""
        number = self.numbers.get(id(code))
        return self._learn(code) if number is None else number

    def _learn(self, code: CodeType) -> int:
        with self._lock:
            if len(self._held) >= MOST_CODES:
                self.numbers.clear()
                self._held.clear()
            number = self._judge(code)
            if number >= 0:
                number = self._users.setdefault(code, len(self._users))
            self._held.append(code)
            self.numbers[id(code)] = number
        return number


def _rate(frame: FrameType) -> str:
    """p=0.5, as the function was called."""
    rate = frame.f_locals.get("p")
    return f"p={rate:g}" if isinstance(rate, int | float) else ""


def _stood(file: str, line: int) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A line and what stands around it; read now, where the file is, for whoever reads later."""
    linecache.checkcache(file)
    text = linecache.getline(file, line).rstrip()
    return text, blocks_around(file, line), assignments_before(file, line)


class NodeWatch:
    """Gives every autograd node its `Origin` as it is made: NOTE [Watching nodes being made]."""

    def __init__(self, sources: Sources, fail: Callable[[Exception], None]) -> None:
        self._sources = sources
        self._fail = fail
        self._patches = Patches()
        self._watching = False
        self._engines = 0
        self._makers: set[int] = set()
        self._user = (False, False)

    def start(self) -> None:
        self._user = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
        replace = self._patches.replace
        self._format = replace(torch.fx.traceback, "format_stack", self._format_stack)
        self._set = replace(torch, "set_anomaly_enabled", self._set_for_user)
        replace(torch, "is_anomaly_enabled", lambda: self._user[0])
        replace(torch, "is_anomaly_check_nan_enabled", lambda: self._user[1])
        self._apply = replace(BackwardCFunction, "apply", self._watched_apply())
        self.watch(True)

    def stop(self) -> None:
        if self._watching:
            self.watch(False)
        self._patches.restore()

    def watch(self, on: bool) -> None:
        """Watch or not: between recorded steps nodes are made at full speed."""
        self._watching = on
        self._switch(on)

    def enter_engine(self, builds_graph: bool) -> bool:
        """Called before the engine runs; hand the answer to `leave_engine`."""
        if not self._watching or builds_graph or self._others_build():
            return False
        self._engines += 1
        self._switch(False)
        return True

    def unnoticed(self, entered: bool) -> AbstractContextManager[None]:
        """Around a run of the engine, in which anomaly mode may be on for us alone."""
        if entered or not self._watching or self._user[0]:
            return nullcontext()
        return AsWithoutAnomaly(self._paused)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        self._switch(False)
        try:
            yield
        finally:
            self._switch(self._watching and not self._engines)

    def _others_build(self) -> bool:
        """Whether another living thread has made nodes, and may be making some now."""
        others = self._makers - {threading.get_ident()}
        return bool(others) and any(thread.ident in others for thread in threading.enumerate())

    def leave_engine(self, entered: bool) -> None:
        if entered:
            self._engines -= 1
            self._switch(self._watching and not self._engines)

    def _switch(self, on: bool) -> None:
        enabled, check_nan = self._user
        self._set(enabled or on, check_nan if enabled else False)

    def _set_for_user(self, enabled: bool, check_nan: bool = True) -> None:
        self._user = (enabled, check_nan)
        self._switch(self._watching and not self._engines)

    def _watched_apply(self) -> Any:
        watch = self

        def apply(self: Any, *args: Any) -> Any:
            if not watch._engines:
                return watch._apply(self, *args)
            watch._switch(True)
            try:
                return watch._apply(self, *args)
            finally:
                watch._switch(False)

        return apply

    def _format_stack(self) -> list[str]:
        if torch.fx.traceback.has_preserved_node_meta():
            kept: list[str] = self._format()
            return kept
        try:
            frame: FrameType | None = sys._getframe(1)
        except ValueError:
            frame = None  # a thread of torch's own: gloo's, when it writes what requires gradients
        # Ours are the last line, this function, and the first ones, which run the script.
        lines = self._format()[self._sources.below(frame) : -1] if self._user[0] else []
        if not self._watching or frame is None:
            return lines
        self._makers.add(threading.get_ident())
        mark = Mark(lines)
        try:
            is_engine = torch._C._current_graph_task_id() != -1
            inherited = self._inherited() if is_engine else None
            mark.origin = inherited or self._sources.origin(frame)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)
            return lines
        return mark

    def _inherited(self) -> Origin | None:
        """A node that the engine itself makes (create_graph) comes from the node being run."""
        node = torch._C._current_autograd_node()
        if node is None or isinstance(node, BackwardCFunction):
            return None
        return origin_of(node)
