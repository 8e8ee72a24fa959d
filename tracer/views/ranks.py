"""A job of several ranks in a few lines: how many there are, and what is wrong with which."""

from __future__ import annotations

from typing import Any

from tracer.analysis.job import Job, RankState
from tracer.views.labels import plural
from tracer.views.terminal import Ink, printable

__all__ = ["job_document", "job_text", "job_troubles"]

MOST_SHOWN = 6
ENDINGS = {
    "running": "is incomplete: it was killed, or is still at work",
    "crashed": "ended with an exception",
    "missing": "is missing",
}


def job_text(job: Job, ink: Ink) -> str:
    """4 ranks (torchrun, gloo), then a line for each that is not whole; "" for a single process."""
    if job.world < 2:
        return ""
    told = ", ".join(word for word in (job.launcher, job.backend) if word)
    head = f"{job.world:,} ranks" + (f" ({told})" if told else "")
    if job.is_simulated:
        head += ": simulated by one process, which stands for all of them, taken to be equal"
    else:
        read = [state for state in job.ranks if state.status != "missing"]
        head += f", {len(read):,} of them here" if len(read) < job.world else ""
    lines = [printable(head), *(ink.red(f"  {line}") for line in _not_whole(job))]
    if job.left_out:
        lines.append(f"  {_left_out(job)}")
    return "\n".join(lines) + "\n"


def job_troubles(job: Job) -> list[str]:
    """Only what is wrong with ranks, and what was left out, a line each."""
    return [*_not_whole(job), *([_left_out(job)] if job.left_out else [])]


def _not_whole(job: Job) -> list[str]:
    off = job.incomplete if job.world > 1 else ()
    more = [f"... {plural(len(off) - MOST_SHOWN, 'more rank')} not whole"]
    return [printable(_told(state)) for state in off[:MOST_SHOWN]] + more[: len(off) > MOST_SHOWN]


def _left_out(job: Job) -> str:
    return printable(f"left out, of other runs: {_some(job.left_out)}")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def _told(state: RankState) -> str:
    exited = f"exited with {state.exit_code}"
    words = f"rank {state.rank} {ENDINGS.get(state.status, exited)}"
    if state.status == "missing":
        return f"{words}: {state.why or state.file}"
    count = f"{plural(state.calls, 'backward call')} in {plural(state.steps, 'step')}"
    return f"{words}; {state.file} has {count}"


def job_document(job: Job) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "world": job.world,
        "launcher": job.launcher,
        "backend": job.backend,
        "simulated": job.is_simulated,
        "left_out": list(job.left_out),
        "ranks": [
            {
                "rank": state.rank, "file": state.file, "status": state.status,
                "backward_calls": state.calls, "steps": state.steps,
                "exit_code": state.exit_code, "why": state.why,
            }
            for state in job.ranks
        ],
    }  # fmt: skip
