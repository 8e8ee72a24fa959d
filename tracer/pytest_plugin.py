"""The fixture `trace`: records what a test trains, for the assertions of `tracer.testing`.

pytest loads this file wherever gradtrace is installed, so it imports nothing but pytest; torch is
loaded when something is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pytest

if TYPE_CHECKING:
    from tracer.tracefile import Trace

__all__ = ["Recording", "Tracing", "trace"]


class Recording:
    """One piece of code that was recorded: where its trace is, and what it returned."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result: Any = None
        self._opened: Trace | None = None

    @property
    def trace(self) -> Trace:
        """The trace, opened; closed at the end of the test."""
        if self._opened is None:
            from tracer.tracefile import load

            self._opened = load(self.path)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def __repr__(self) -> str:
        return f"<recorded in {self.path}>"


class Tracing:
    """What the fixture `trace` is: call it with a function, or as a context manager.

    run = trace(train, batch=16)               # records train(batch=16); run.result is its result
    with trace(name="accumulated") as run:     # records what is inside
        train(batch=4, accumulate=4)
    """

    def __init__(self, folder: Path, item: pytest.Item) -> None:
        self._folder = folder
        self._item = item
        self._made: list[Recording] = []

    @overload
    def __call__(
        self, function: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> Recording: ...

    @overload
    def __call__(
        self,
        *,
        name: str = "",
        steps: tuple[int, int | None] | None = None,
        every: int = 1,
        gpus: int = 0,
    ) -> AbstractContextManager[Recording]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            return self._recording(**kwargs)
        function, *others = args
        with self._recording() as run:
            run.result = function(*others, **kwargs)
        return run

    @contextmanager
    def _recording(
        self,
        *,
        name: str = "",
        steps: tuple[int, int | None] | None = None,
        every: int = 1,
        gpus: int = 0,
    ) -> Iterator[Recording]:
        """Everything inside is recorded; `steps` and `every` as for `tracer.Recorder`."""
        from tracer.record.recorder import Recorder

        run = Recording(self._folder / f"{name or f'run{len(self._made) + 1}'}.trace")
        self._made.append(run)
        self._item.add_report_section("call", "gradtrace", f"recorded {run.path}\n")
        recorder = Recorder(
            run.path, steps=steps, every=every, command=(self._item.nodeid,), script=run.path.stem
        )
        with ExitStack() as stack:
            if gpus:
                from tracer.devices import virtual_gpus

                stack.enter_context(virtual_gpus(gpus))
            stack.enter_context(recorder)
            yield run
        if recorder.failure:
            raise RuntimeError(f"gradtrace stopped recording: {recorder.failure}")

    def close(self) -> None:
        for run in self._made:
            run.close()


@pytest.fixture
def trace(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tracing]:
    """Records code of this test: `run = trace(function)`, or `with trace() as run: ...`."""
    tracing = Tracing(tmp_path, request.node)
    yield tracing
    tracing.close()
