"""`gradtrace trace --nproc-per-node N`: torch's own launcher, with every rank traced."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from types import FrameType

from tracer.record.children import JOB
from tracer.record.script import OWN_SHIM

__all__ = ["SUMMARY", "is_asked", "launch"]

SUMMARY = "GRADTRACE_SUMMARY"
"""Set for the ranks of a job that we launch: the summary comes from here, when all have ended."""

FLAGS: Mapping[str, str] = {
    "output": "--output",
    "every": "--every",
    "depth": "--depth",
    "detail": "--detail",
    "gpus": "--gpus",
}
"""Options with a value that the ranks are given as they came."""

SWITCHES: Mapping[str, tuple[str, bool]] = {
    "terms": ("--terms", True),
    "svg": ("--no-svg", False),
}


def is_asked(options: argparse.Namespace) -> bool:
    return options.nproc_per_node is not None


def launch(options: argparse.Namespace) -> tuple[int, str]:
    """Run the job; its exit code, and the name that its traces share."""
    job = uuid.uuid4().hex
    environment = {**os.environ, JOB: job, SUMMARY: "launcher"}
    process = subprocess.Popen(command(options), env=environment)
    before = signal.signal(signal.SIGTERM, _hand_on(process))
    try:
        return _wait(process), job
    finally:
        signal.signal(signal.SIGTERM, before)


def command(options: argparse.Namespace) -> list[str]:
    """What a user would type to have torchrun start the ranks."""
    ranks = f"--nproc-per-node={options.nproc_per_node}"
    launcher = ["torch.distributed.run", "--standalone", ranks]
    ours = [OWN_SHIM] if os.path.exists(OWN_SHIM) else ["-m", "tracer"]
    module = ["-m"] if options.is_module else []
    return [
        sys.executable, "-m", *launcher, *ours, "trace", *_flags(options), *module, *options.script,
    ]  # fmt: skip


def _flags(options: argparse.Namespace) -> list[str]:
    given = vars(options)
    flags = [f"{flag}={given[name]}" for name, flag in FLAGS.items() if given.get(name) is not None]
    if options.steps is not None:
        first, last = options.steps
        flags.append(f"--steps={first}:{'' if last is None else last}")
    return [*flags, *(flag for name, (flag, on) in SWITCHES.items() if given.get(name) is on)]


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code; an interrupt from the keyboard reaches the ranks as it reaches us."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _hand_on(process: subprocess.Popen[bytes]) -> Callable[[int, FrameType | None], None]:
    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    return hand_on
