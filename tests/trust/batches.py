"""Random programs in child processes: one that kills its process is told, and the rest goes on.

    python -m tests.trust.batches FIRST BEHIND FILE   (such a child; programs FIRST to BEHIND - 1)

A program can kill the process that runs it, with the recorder or without: torch has such faults.
The child writes the text of each program, and what it is about to do with it, into a file before.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import tracer
from tests.record.test_scenarios import bits
from tests.trust.programs import Program, program_of, run
from tracer.analysis.balance import check_balance

__all__ = ["Failure", "Many", "judge", "judge_many"]

ROOT = Path(__file__).resolve().parents[2]

BATCH = 250
SECONDS = 900
"""For a batch; one takes some ten seconds."""

GROWS, ALONE, RECORDED = "grew", "ran alone", "was recorded"

FAULTS = "GRADTRACE_TEST_FAULTS"
"""Faults made on purpose, to test the tests: `3 fails, 5 dies alone, 6 dies recorded`."""


@dataclass(frozen=True)
class Failure:
    """A program that is not the same when recorded, or that kills its process."""

    number: int
    what: str
    text: str
    ours: bool = True
    """False: it kills its process without the recorder too."""

    def __str__(self) -> str:
        lines = "\n".join(f"    {line}" for line in self.text.splitlines())
        return f"program {self.number} {self.what}\n{lines}"


@dataclass
class Many:
    """What many programs came to."""

    seen: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.seen.items())


def judge(program: Program, mark: Callable[[str], None] = lambda what: None) -> Counter[str]:
    """Assert that the recorder changed nothing and that every account adds up; count these."""
    mark(ALONE)
    left, said = heard(program)
    state = torch.get_rng_state()
    mark(RECORDED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.trace")
        with tracer.Recorder(path) as recorder:
            left_recorded, said_recorded = heard(program)
        assert not recorder.failure, recorder.failure
        assert said_recorded == said, f"alone {said}, recorded {said_recorded}"
        assert bits(left_recorded) == bits(left), "other bits"
        assert torch.equal(torch.get_rng_state(), state), "another state of the generator"
        with tracer.load(path) as trace:
            report = check_balance(trace)
            calls = len(trace.calls)
    assert not report.imbalances, str(report)
    return Counter(
        programs=1, calls=calls, fan_ins=report.fan_ins, buffers=report.buffers,
        captures=report.captures, hooked=report.explained, unchecked=report.unchecked,
        refused=len(said),
    )  # fmt: skip


def heard(program: Program) -> tuple[list[torch.Tensor], list[str]]:
    """What a program leaves, and all that torch said: exceptions and warnings, also twice."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            left, said = run(program)
        finally:
            torch.set_warn_always(always)
    return left, [*said, *(str(warning.message) for warning in warned)]


# --------------------------------------------------------------------------- the parent


def judge_many(count: int, first: int = 0, tell: Callable[[str], None] = lambda line: None) -> Many:
    """Judge programs by number, in child processes; `tell` hears of each failure at once."""
    many = Many()
    with tempfile.TemporaryDirectory() as folder:
        number, behind = first, first + count
        while number < behind:
            end = min(number + BATCH, behind)
            number = judge_batch(number, end, Path(folder, "at_work.json"), many, tell)
    return many


def judge_batch(
    first: int, behind: int, at_work: Path, many: Many, tell: Callable[[str], None]
) -> int:
    """Judge a batch in a child; the number to go on with: the one behind that which killed it."""
    at_work.unlink(missing_ok=True)
    words = [sys.executable, "-m", __name__, str(first), str(behind), str(at_work)]
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                words, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True, timeout=SECONDS,
                check=False,
            )  # fmt: skip
            out, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            out, code = _text(late.stdout), -signal.SIGKILL
        said.seek(0)
        last = said.read()[-2000:]
    found: list[Failure] = []
    for line in out.splitlines():
        kind, facts = json.loads(line)
        if kind == "seen":
            many.seen.update(facts)
        else:
            found.append(Failure(**facts))
    if code:
        if not at_work.exists():
            raise RuntimeError(f"a batch of programs did not start: {last}")
        now = json.loads(at_work.read_text(encoding="utf-8"))
        if code > 0:
            raise RuntimeError(f"program {now['number']} cannot be judged: {last}\n{now['text']}")
        died = signal.Signals(-code).name
        what = f"died of {died} while it {now['doing']}"
        found.append(Failure(now["number"], what, now["text"], now["doing"] == RECORDED))
        behind = now["number"] + 1
    many.failures += found
    for failure in found:
        tell(str(failure))
    return behind


def _text(out: str | bytes | None) -> str:
    """The whole lines of what a child said that was ended."""
    text = out.decode() if isinstance(out, bytes) else out or ""
    return text[: text.rfind("\n") + 1]


# ---------------------------------------------------------------------------- the child


def main() -> int:
    first, behind, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    faulthandler.enable()
    warnings.simplefilter("ignore")
    with place.open("w", encoding="utf-8") as at_work:
        for number in range(first, behind):

            def mark(doing: str, text: str, number: int = number) -> None:
                at_work.seek(0)
                at_work.truncate()
                json.dump({"number": number, "doing": doing, "text": text}, at_work)
                at_work.flush()
                fault(number, doing)

            one(number, mark)
    return 0


def one(number: int, mark: Callable[[str, str], None]) -> None:
    """Grow and judge one program, and say on a line what it came to."""
    program = program_of(number, lambda text: mark(GROWS, text))
    try:
        say("seen", judge(program, lambda doing: mark(doing, str(program))))
    except Exception as error:  # noqa: BLE001 - whatever a random program brought to light
        what = f"{type(error).__name__}: {error}"[:2000]
        say("failure", {"number": number, "what": what, "text": str(program)})


def say(kind: str, facts: object) -> None:
    print(json.dumps([kind, facts]), flush=True)


def fault(number: int, doing: str) -> None:
    for asked in os.environ.get(FAULTS, "").split(", "):
        if asked == f"{number} fails" and doing == ALONE:
            raise AssertionError("on purpose")
        if asked == f"{number} dies {doing.rpartition(' ')[2]}":
            os.abort()


if __name__ == "__main__":
    sys.exit(main())
