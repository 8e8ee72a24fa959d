"""A folder with scripts in it, and two ways to run them: with Python alone, and traced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tracer.tracefile import Trace, load

CLI = Path(__file__).parents[2] / "cli.py"
SUMMARY = "gradtrace: "

TRAINING = """
import torch

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def step():
    optimizer.zero_grad()
    loss = model(torch.ones(2, 3)).mean()
    loss.backward()
    optimizer.step()
"""
"""The head of a script that trains; two lines of it are of the tracer's concern."""


@dataclass(frozen=True)
class Ended:
    """What a process left behind. A negative `code` is the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def own_err(self) -> str:
        """Standard error without what the tracer says at the end."""
        return self.err.partition(SUMMARY)[0]

    @property
    def summary(self) -> str:
        return "".join(self.err.partition(SUMMARY)[1:])


def _listen_to_signals() -> None:
    """What a shell starts in the background ignores SIGINT, `nohup` SIGHUP, and so do children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Folder:
    """Scripts of a test, and what happens when they are run there."""

    cli_path = CLI

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def python(
        self, *words: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> Ended:
        """Run Python itself with these arguments."""
        process = self.start(*words, environment=environment)
        out, err = process.communicate(stdin, timeout=100)
        return Ended(process.returncode, out, err)

    def cli(
        self, *words: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> Ended:
        return self.python(str(CLI), *words, stdin=stdin, environment=environment)

    def traced(
        self, *words: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> Ended:
        """Run what `python words` would run, traced and not drawn."""
        return self.cli("trace", "--no-svg", *words, stdin=stdin, environment=environment)

    def start(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.path,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            preexec_fn=_listen_to_signals,  # noqa: PLW1509 - started from one thread
        )

    def start_traced(self, *words: str) -> subprocess.Popen[str]:
        return self.start(str(CLI), "trace", "--no-svg", *words)

    def interrupt_when_ready(
        self, process: subprocess.Popen[str], signal_number: signal.Signals
    ) -> Ended:
        """Send a signal once the script has made the file `ready`."""
        deadline = time.monotonic() + 60
        while not (self.path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
        (self.path / "ready").unlink()
        return Ended(process.returncode, out, err)

    def trace(self, name: str) -> Trace:
        return load(self.path / name)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def assert_same(plain: Ended, traced: Ended) -> None:
    """A script that runs traced prints, complains and ends as it does alone."""
    assert traced.code == plain.code
    assert without_addresses(traced.out) == without_addresses(plain.out)
    assert without_addresses(traced.own_err) == without_addresses(plain.err)


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x...", text)
