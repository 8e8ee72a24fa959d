"""What the commands say on a terminal: plain lines, with a little weight where one looks first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tracer.analysis.balance import BalanceReport
from tracer.analysis.contents import Contents

__all__ = [
    "Ink",
    "Written",
    "balance_text",
    "bytes_text",
    "contents_text",
    "count_text",
    "printable",
    "summary_text",
    "table",
]

BOLD, DIM, RED, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"


@dataclass(frozen=True)
class Ink:
    """Marks words on a terminal that can show it; leaves them as they are elsewhere."""

    on: bool = False

    def bold(self, text: str) -> str:
        return f"{BOLD}{text}{PLAIN}" if self.on else text

    def dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.on else text

    def red(self, text: str) -> str:
        return f"{RED}{text}{PLAIN}" if self.on else text


@dataclass(frozen=True)
class Written:
    """A file that was written, as the user would type its name."""

    name: str
    bytes: int


def summary_text(
    contents: Contents,
    *,
    balance: str,
    places: Sequence[Sequence[str]],
    written: Iterable[Written],
    remarks: Iterable[str],
    following: str,
    ink: Ink,
    answer: str = "",
) -> str:
    """What `trace` says at the end: what was seen, where it adds and averages, what comes next.

    `answer` is what `explain` says for the run; `places` stand in for it where there is none.
    """
    code = contents.run.exit_code
    ended = f", exit code {code}" if code else ""
    rows = [("recorded", _recorded(contents))]
    if contents.calls:
        rows.append(("balance", balance))
    place_lines = table(places).splitlines()
    rows += list(zip(["gradients"] + [""] * len(place_lines), place_lines, strict=False))
    files = ", ".join(f"{file.name} ({bytes_text(file.bytes)})" for file in written)
    if files:
        rows.append(("wrote", files))
    lines = [ink.bold(printable(f"gradtrace: {contents.run.script}{ended}"))]
    lines += [_row(name, text, ink) for name, text in rows]
    lines += [printable(f"gradtrace: {remark}") for remark in remarks]
    if answer:
        lines += ["", *answer.splitlines(), ""]
    if following:
        lines.append(f"next: {ink.bold(printable(following))}")
    return "\n".join(lines) + "\n"


def _row(name: str, text: str, ink: Ink) -> str:
    return f"  {ink.dim(f'{name:<9}')}  {printable(text)}".rstrip()


def _recorded(contents: Contents) -> str:
    if not contents.calls:
        return "no backward call was seen in this process"
    return (
        f"{count_text(contents.calls, 'backward call')} in {count_text(contents.steps, 'step')}, "
        f"{count_text(contents.nodes, 'node')} ({count_text(contents.structures, 'structure')}), "
        f"{count_text(contents.contributions, 'contribution')}, "
        f"{count_text(contents.buffers, 'buffer')}"
    )


def balance_text(report: BalanceReport, checked: int, calls: int) -> str:
    """Whether what was sent adds up to what was received, in a line."""
    accounts = f"{count_text(report.fan_ins, 'fan-in')}, {count_text(report.buffers, 'buffer sum')}"
    if report.imbalances:
        first = report.imbalances[0]
        factor = f", x {first.factor:.6g}" if first.factor is not None else ""
        text = (
            f"{len(report.imbalances):,} of {accounts} do NOT add up, first {first.what} in "
            f"backward call {first.call}{factor}"
        )
    elif 0 < report.unchecked == report.fan_ins + report.buffers + report.captures:
        return f"not checked, as gradients were not measured: {accounts}"
    else:
        how = f"to {report.worst:.0e}" if report.worst else "exactly"
        text = f"every sum adds up, {how}: {accounts}"
    if report.explained:
        text += f"; {report.explained:,} changed by {printable(report.hooked[0].explanation)}"
    if report.unchecked:
        text += f"; {report.unchecked:,} could not be checked"
    if checked < calls:
        text += f" (checked in {checked:,} of {calls:,} calls)"
    return text


def contents_text(contents: Contents, name: str, ink: Ink) -> str:
    """The table of `info`."""
    run = contents.run
    rows = [
        ("script", " ".join(run.command) or run.script),
        ("folder", run.cwd),
        ("status", _status(contents)),
        ("started", _moment(run.started)),
        ("versions", ", ".join(f"{key} {value}" for key, value in run.versions.items())),
        ("process", f"{run.pid}, rank {run.rank} of {run.world}"),
        ("options", _options(run.options)),
        ("", ""),
        ("calls", _calls(contents)),
        ("steps", _steps(contents)),
        ("resets", f"{contents.resets:,} zero_grad"),
        ("graph", f"{contents.nodes:,} nodes in {count_text(contents.structures, 'structure')}"),
        ("", f"{count_text(contents.contributions, 'contribution')}"),
        ("buffers", f"{contents.buffers:,}, of which {contents.parameters:,} are parameters"),
        ("modules", f"{contents.modules:,}"),
        ("", ""),
        ("file", _sizes(contents)),
    ]
    lines = [ink.bold(printable(name)), *(_row(key, text, ink) for key, text in rows)]
    return "\n".join(lines) + "\n"


def _status(contents: Contents) -> str:
    run = contents.run
    if run.failure:
        return f"the tracer gave up: {run.failure}"
    if run.status == "running":
        return "running, or it was killed: what was recorded up to then is here"
    return f"{run.status}, exit code {run.exit_code}"


def _calls(contents: Contents) -> str:
    entries = ", ".join(f"{count:,} by {entry}" for entry, count in contents.entries.items())
    parts = [f"{contents.calls:,} backward", entries]
    if contents.nested:
        parts.append(f"{contents.nested:,} of them inside another")
    if contents.failed:
        parts.append(f"{contents.failed:,} of them failed")
    return "; ".join(part for part in parts if part)


def _steps(contents: Contents) -> str:
    windows = (
        f"{count_text(steps, 'step')} of {count_text(calls, 'call')}"
        for calls, steps in contents.calls_per_step.items()
    )
    return "; ".join([f"{contents.steps:,} by an optimizer", *windows])


def _sizes(contents: Contents) -> str:
    parts = [bytes_text(contents.bytes)]
    if contents.per_step:
        parts.append(f"{bytes_text(contents.per_step)} per step")
    if contents.calls:
        parts.append(f"of which {bytes_text(contents.measured_per_call)} measured per call")
    return ", ".join(parts)


def _options(options: dict[str, object]) -> str:
    given = (f"{key}={value}" for key, value in options.items() if value is not None)
    return " ".join(given) or "none"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def count_text(number: int, noun: str) -> str:
    """`1 step`, `1,204 nodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bytes_text(number: int) -> str:
    """`812 B`, `34 kB`, `1.2 MB`."""
    if number < 1000:
        return f"{number} B"
    power = min(int(math.log10(number) // 3), 4)
    value = number / 1000**power
    return f"{value:.1f} {' kMGT'[power]}B" if value < 10 else f"{value:.0f} {' kMGT'[power]}B"


def printable(text: str) -> str:
    """Names come from the traced script: nothing in them may steer the terminal."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
