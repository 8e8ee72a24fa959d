"""Processes that a traced script starts: recorded once they join a process group, else left alone.

What they are to do is in their environment (`invite`). A child finds it as its Python starts
(`boot/sitecustomize.py`), or as it is forked, waits for torch, and then for a process group, whose
rank is the name of its file.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.record.patches import Patches
from tracer.record.script import TorchWatch
from tracer.runfiles import file_of_rank

if TYPE_CHECKING:
    from tracer.record.recorder import Recorder

__all__ = ["CHILDREN", "JOB", "forget", "invite", "name_of_job", "watch"]

CHILDREN = "GRADTRACE_CHILDREN"
"""What children are to record, as JSON; not set where nobody asked for it."""

JOB = "GRADTRACE_JOB"
"""A text that all ranks of a job share, where the tracer started them or their parent."""

BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot")


def invite(environment: MutableMapping[str, str], job: str, output: Path, **options: Any) -> None:
    """Let children that inherit this environment record into `output`, as ranks of `job`."""
    environment.setdefault(JOB, job)
    environment[CHILDREN] = json.dumps({"output": str(output), **options})
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if BOOT not in paths:
        environment["PYTHONPATH"] = os.pathsep.join([BOOT, *paths])


def name_of_job(environment: Mapping[str, str]) -> str:
    """What all ranks of a job have in common, and no other job at this time; "" for no job."""
    parts = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    launched = " ".join(environment.get(part, "") for part in parts).strip()
    return environment.get(JOB) or launched


def forget() -> None:
    """This process is traced on its own account: it is not to be recorded as a child as well."""
    for finder in [f for f in sys.meta_path if type(f).__name__ == "WaitForTorch"]:
        sys.meta_path.remove(finder)


def watch() -> TorchWatch:
    """For a child: wait for torch, and then for a process group."""
    return TorchWatch(lambda: _Child().expect())


def _after_fork() -> None:
    """In a forked child torch may be there already."""
    if os.environ.get(CHILDREN) and "torch.distributed.distributed_c10d" in sys.modules:
        _Child().expect()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Child:
    """The recording of this process, from its process group to its end."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    def expect(self) -> None:
        """Wait for the process group; torch has been loaded."""
        # Inside a function: the parent imports this module before torch may be imported.
        from multiprocessing.process import BaseProcess

        from torch.distributed import distributed_c10d, is_available

        if not is_available():
            return
        joined = distributed_c10d._update_default_pg
        bootstrap: Callable[..., int] = BaseProcess._bootstrap  # type: ignore[attr-defined]
        patches, ending = Patches(), Patches()

        @functools.wraps(joined)
        def _update_default_pg(group: Any) -> None:
            joined(group)
            if group is not None:
                patches.restore()
                self._begin()

        @functools.wraps(bootstrap)
        def _bootstrap(process: Any, *args: Any, **kwargs: Any) -> int:
            ending.restore()
            code = bootstrap(process, *args, **kwargs)
            self._end(code)
            return code

        # Inside of it, whatever name the script knows `init_process_group` by.
        patches.replace(distributed_c10d, "_update_default_pg", _update_default_pg)
        # Children of multiprocessing that were forked leave without `atexit`.
        ending.replace(BaseProcess, "_bootstrap", _bootstrap)

    def _begin(self) -> None:
        import torch.distributed as dist

        from tracer.record.recorder import Recorder

        wish = json.loads(os.environ[CHILDREN])
        try:
            recorder = Recorder(
                file_of_rank(Path(wish["output"]), dist.get_rank()),
                steps=tuple(wish["steps"]) if wish.get("steps") else None,
                every=wish.get("every", 1),
                detail=wish.get("detail", "edges"),
                command=wish.get("command", ()),
                script=wish.get("script", ""),
                options=wish.get("options", {}),
            )
            recorder.start()
        except Exception as error:  # noqa: BLE001 - the child runs as it would without us
            print(f"gradtrace: a child is not recorded: {error}", file=sys.stderr)
            return
        self._recorder = recorder
        atexit.register(self._end)

    def _end(self, code: int | None = None) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        has_crashed = bool(code) or hasattr(sys, "last_type")
        recorder.stop(
            status="crashed" if has_crashed else "finished",
            exit_code=code if code is not None or not has_crashed else 1,
        )
