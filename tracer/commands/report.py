"""What `gradtrace trace` does after the script has ended: balance, draw, sum up."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tracer.analysis.balance import check_balance
from tracer.analysis.checks.case import Case
from tracer.analysis.checks.run import examine
from tracer.analysis.contents import contents_of
from tracer.analysis.explain import Explainer
from tracer.analysis.job import job_of, seen_from
from tracer.analysis.places import Place, places_of
from tracer.commands.console import progress, tell, wants_colour
from tracer.commands.graph import Wish, draw
from tracer.errors import TracerError
from tracer.events import Call, RunInfo
from tracer.graph.build import build
from tracer.graph.names import Names
from tracer.runfiles import Run, load_run
from tracer.tracefile import Trace
from tracer.views.explain import answers_text, notes_text
from tracer.views.findings import findings_text
from tracer.views.ranks import job_text
from tracer.views.terminal import Ink, Written, balance_text, summary_text

if TYPE_CHECKING:
    from tracer.commands.trace import Plan

__all__ = ["after_run"]

T = TypeVar("T")

MOST_PLACES = 8
MOST_ANSWERS = 2
MOST_NODES = 20_000
"""Of one backward call, to be explained at the end of a run: a few seconds' worth."""
MOST_CONTRIBUTIONS = 200_000
"""To balance at the end of a run, some ten seconds' worth; more are taken here and there."""


class Remarks(list[str]):
    """What could not be done: one line each, and the rest goes on."""

    def attempt(self, what: str, action: Callable[[], T], otherwise: T) -> T:
        try:
            return action()
        except TracerError as error:
            self.append(f"no {what}: {error}")
        except Exception as error:  # noqa: BLE001 - the exit code is the script's, whatever breaks
            self.append(f"no {what}, the tracer failed: {type(error).__name__}: {error}")
        return otherwise


def after_run(plan: Plan, failure: str, has_ended: bool = False) -> None:
    """Check the trace that was just written, draw it, and say on standard error what is in it.

    Of a job the traces of all ranks are looked at; `has_ended` says that none is at work any more.
    """
    remarks = Remarks()
    if failure:
        remarks.append(f"the tracer gave up and the script went on without it: {failure}")
    ink = Ink(wants_colour(sys.__stderr__))
    with load_run(plan.output) as traces:
        trace = seen_from(traces, plan.output)
        contents = contents_of(trace)
        written = [rank.path for rank in traces.ranks.values()]
        head = job_text(job_of(traces), ink) if has_ended or contents.run.simulated else ""
        places: Sequence[Place] = ()
        balance, following, answer, found = "", "", "", ""
        if contents.calls:
            balance = remarks.attempt("balance", lambda: _balance(trace), "not checked")
            answer = remarks.attempt("answer", lambda: _answer(traces, trace, ink), "")
            if not answer:
                places = remarks.attempt("places", lambda: places_of(build(trace)), [])
            following = _following(trace, plan.output)
            if plan.check:
                found = remarks.attempt("findings", lambda: _findings(traces, trace, plan, ink), "")
        if contents.calls and plan.svg:
            written += remarks.attempt("picture", lambda: _draw(trace, plan, traces), [])
        text = summary_text(
            contents,
            balance=balance,
            places=_rows(places, [contents.run.cwd, _folder(contents.run)], _texts(trace)),
            written=[Written(_as_typed(file), file.stat().st_size) for file in _whole(written)],
            remarks=remarks,
            answer=answer,
            following=following,
            ink=ink,
        )
    tell(f"{head}{text}\n{found}" if found else f"{head}{text}")


def _whole(written: Sequence[Path]) -> Iterator[Path]:
    """The files, and the log of a trace that had no room to be folded into it."""
    for file in written:
        yield file
        log = Path(f"{file}-wal")
        if log.exists() and log.stat().st_size:
            yield log


def _findings(traces: Run, trace: Trace, plan: Plan, ink: Ink) -> str:
    """What `check` says."""
    with progress("checking"):
        report = examine([Case(trace, traces.ranks)])
    return findings_text(report, [_as_typed(plan.output)], ink)


def _answer(traces: Run, trace: Trace, ink: Ink) -> str:
    """What `explain` says first; "" for graphs so large that it would keep the user waiting."""
    layouts = {call.layout for call in trace.calls}
    if max(len(trace.layout(layout).states) for layout in layouts) > MOST_NODES:
        return ""
    overview = Explainer(trace, traces.ranks).overview()
    text = answers_text(overview, trace, ink, MOST_ANSWERS)
    notes = notes_text(overview, trace)
    return f"{text}\n{notes}" if notes and overview.groups else text


def _folder(run: RunInfo) -> str:
    """The script's folder: its modules are named from there."""
    return os.path.dirname(os.path.join(run.cwd, run.script))


def _draw(trace: Trace, plan: Plan, traces: Run) -> list[Path]:
    draw(trace, Wish(depth=plan.depth), plan.picture, traces.ranks)
    return [plan.picture]


def _balance(trace: Trace) -> str:
    calls = _sample(trace)
    with progress("balancing"):
        report = check_balance(trace, calls)
    return balance_text(report, len(calls), len(trace.calls))


def _sample(trace: Trace) -> list[Call]:
    """Every call, or every so many of a long run."""
    sizes = [len(trace.layout(call.layout).contributions) for call in trace.calls]
    stride = max(1, -(-sum(sizes) // MOST_CONTRIBUTIONS))
    return trace.calls[::stride]


def _following(trace: Trace, output: Path) -> str:
    """The next command to type: a parameter of the run, far from the loss if there is a choice."""
    names = Names(trace)
    known = [buffer for buffer in trace.buffers.values() if buffer.name]
    known = [b for b in known if b.is_parameter] or known
    known = [b for b in known if len(b.shape) > 1] or known
    parameter = f" {shlex.quote(names.buffer(known[-1].id))}" if known else ""
    return f"{_program()} explain {shlex.quote(_as_typed(output))}{parameter}"


def _program() -> str:
    """What the user typed before `trace`, shorter where the shell would find it."""
    words = sys.orig_argv[: sys.orig_argv.index("trace")] if "trace" in sys.orig_argv else []
    if not words or os.path.basename(words[-1]) == "gradtrace":
        return "gradtrace" if not words or shutil.which("gradtrace") else shlex.quote(words[-1])
    return shlex.join(words)


def _texts(trace: Trace) -> dict[tuple[str, int], str]:
    """The lines of the trace as they stood when they ran."""
    return {(place.file, place.line): place.text.strip() for place in trace.sources.values()}


def _rows(
    places: Sequence[Place], folders: Sequence[str], texts: Mapping[tuple[str, int], str]
) -> list[tuple[str, ...]]:
    """Of each place what it does, its line as `texts` has it, and where that is."""
    rows = [_row(place, folders, texts) for place in places[:MOST_PLACES]]
    if len(places) > MOST_PLACES:
        rows.append(("", f"... {len(places) - MOST_PLACES} more", "", ""))
    return rows


def _row(
    place: Place, folders: Sequence[str], texts: Mapping[tuple[str, int], str]
) -> tuple[str, ...]:
    if not place.file:
        return (place.verb, place.words, place.called, "")
    text = texts.get((place.file, place.line), "") or place.called
    shown = text if len(text) <= 44 else f"{text[:41]}..."
    return (place.verb, place.words, shown, f"{_inside(place.file, folders)}:{place.line}")


def _inside(file: str, folders: Sequence[str]) -> str:
    """The path as seen from the first of these folders that it lies in."""
    for folder in folders:
        prefix = folder.rstrip(os.sep) + os.sep
        if file.startswith(prefix):
            return file[len(prefix) :]
    return file


def _as_typed(file: Path) -> str:
    try:
        return _inside(str(file), [os.getcwd()])
    except OSError:  # the script removed the folder it stands in
        return str(file)
