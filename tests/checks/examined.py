"""Runs a script under the recorder, in this process: what do the checks find in its trace?"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tracer
from tracer.analysis.checks.case import Case
from tracer.analysis.checks.finding import Finding
from tracer.analysis.checks.run import Report, examine

__all__ = ["SCRIPTS", "Expected", "examined", "expected_of", "look_alikes", "scripts_of"]

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Expected:
    """What the head of a script says: the finding, its factor and line, and the notes beside it."""

    severity: str = ""
    slug: str = ""
    factor: str = ""
    line: int | None = None
    notes: frozenset[str] = frozenset()
    gpus: int = 0

    def is_found_by(self, findings: tuple[Finding, ...]) -> bool:
        return any(self.matches(finding) for finding in findings)

    def matches(self, finding: Finding) -> bool:
        return (finding.check, finding.severity) == (self.slug, self.severity)


def expected_of(script: Path) -> Expected:
    lines = script.read_text(encoding="utf-8").splitlines()
    head = {m[1]: m[2] for line in lines[:4] if (m := re.match(r"# (\w+): (.*)", line))}
    found = re.fullmatch(r"(\w+) ([\w-]+)(?: x (\S+))?", head["finds"]) if "finds" in head else None
    marked = [n for n, line in enumerate(lines, start=1) if line.endswith("# <- here")]
    return Expected(
        severity=found[1] if found else "",
        slug=found[2] if found else "",
        factor=(found[3] or "") if found else "",
        line=marked[0] if marked else None,
        notes=frozenset(slug.strip() for slug in head.get("notes", "").split(",") if slug.strip()),
        gpus=int(head.get("gpus", 0)),
    )


@functools.cache
def examined(script: Path) -> Report:
    """What is found in the trace of a script, each script run once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.trace"
        record(script, path)
        with tracer.load(path) as trace:
            return examine([Case(trace)])


def record(script: Path, path: Path) -> None:
    code = compile(script.read_text(encoding="utf-8"), str(script), "exec")
    quiet = contextlib.redirect_stdout(io.StringIO())
    with _gpus(expected_of(script).gpus), quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tracer.Recorder(path) as recorder:
            exec(code, {"__name__": "__main__", "__file__": str(script)})
    assert not recorder.failure


@contextlib.contextmanager
def _gpus(count: int) -> Iterator[None]:
    if not count:
        yield
        return
    with tracer.virtual_gpus(count):
        yield


def scripts_of(name: str) -> list[Path]:
    """Every script of this name (`bug`, `fine`), of all checks, with its further ones."""
    return sorted(SCRIPTS.glob(f"*/{name}*.py"))


def look_alikes(slug: str) -> list[Path]:
    return sorted((SCRIPTS / slug).glob("fine*.py"))
