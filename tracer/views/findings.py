"""What `check` says: findings on a terminal, the most severe first, and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.analysis.checks.finding import SEVERITIES, Finding, Place
from tracer.analysis.checks.run import Report
from tracer.analysis.exact import said
from tracer.semantics.effects import Exact
from tracer.views.labels import clipped, short_line
from tracer.views.terminal import Ink, count_text, printable, table

__all__ = ["SCHEMA", "document", "findings_text", "headline"]

SCHEMA = 1
"""Of the JSON document; goes up when a key changes its meaning or goes away."""

MOST_WHOLE = 6
"""Findings that are told whole; of the others a line each, as far as a screen goes."""
MOST_LINES = 40
MOST_NAMES = 4
MOST_EVIDENCE = 4


def findings_text(report: Report, names: Sequence[str], ink: Ink) -> str:
    """At most a screen: what was found, with its evidence, then the rest in a line each."""
    lines = [headline(report, names)]
    told = 0
    for finding in report.findings[:MOST_WHOLE]:
        block = ["", *_block(finding, ink)]
        if told and len(lines) + len(block) > MOST_LINES:
            break
        lines += block
        told += 1
    lines += _rest(report.findings[told:])
    return "\n".join(lines) + "\n"


def headline(report: Report, names: Sequence[str]) -> str:
    """How many of what, in which traces."""
    counts = [(report.count(severity), severity) for severity in SEVERITIES]
    found = ", ".join(count_text(count, severity) for count, severity in counts if count)
    where = names[0] if len(names) == 1 else f"{len(names)} traces"
    text = f"{printable(where)}: {found or 'nothing found'}"
    if report.silenced:
        text += f" ({report.silenced} silenced by comments)"
    return text


def _block(finding: Finding, ink: Ink) -> Iterator[str]:
    loud = finding.severity != "note"
    head = f"{finding.severity}  {finding.check}"
    by = _factor(finding)
    where = f"  {_line(finding.place)}" if finding.place else ""
    trace = f"  in {printable(finding.trace)}" if finding.trace else ""
    yield (ink.red(head) if loud else ink.bold(head)) + f"{where}{f'  {by}' if by else ''}{trace}"
    yield f"  {printable(_sentence(finding))}"
    if finding.place is not None and finding.place.text.strip():
        yield f"    {ink.dim(printable(clipped(finding.place.text.strip(), 90)))}"
    rows = [
        (words, f"x {said(factor)}" if factor is not None else "", _line(place))
        for words, factor, place in finding.evidence[:MOST_EVIDENCE]
    ]
    if rows:
        cells = [[printable(clipped(cell, 80)) for cell in row] for row in rows]
        yield from (f"    {line}" for line in table(cells).splitlines())
    if finding.parameters:
        yield f"  {printable(_parameters(finding.parameters))}"
    yield f"  {ink.bold('do:')} {printable(finding.remedy)}"


def _sentence(finding: Finding) -> str:
    return finding.message + (f" ({finding.where})" if finding.where else "")


def _factor(finding: Finding) -> str:
    usual = "" if finding.factor is None else f"x {said(finding.factor)}"
    if finding.factors is None:
        return usual
    span = f"{said(finding.factors[0])} to {said(finding.factors[1])}"
    return f"{usual} ({span})" if usual else f"x {span}"


def _line(place: Place | None) -> str:
    return "" if place is None else printable(short_line(place.file, place.line))


def _parameters(names: Sequence[str]) -> str:
    """62 parameters: a.b, c.d, ..."""
    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return f"{count_text(len(names), 'parameter')}: {shown}"


def _rest(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield ""
    for finding in findings[:MOST_WHOLE]:
        place = _line(finding.place)
        text = clipped(_sentence(finding), 90)
        yield printable(f"{finding.severity}  {finding.check}  {place}  {text}")
    if len(findings) > MOST_WHOLE:
        yield f"... {len(findings) - MOST_WHOLE} more: --json has all, --select SLUG one kind"


def document(report: Report, names: Sequence[str]) -> dict[str, object]:
    """The document of `--json`."""
    return {
        "schema": SCHEMA,
        "traces": list(names),
        "findings": [_finding(finding) for finding in report.findings],
        "silenced": report.silenced,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.check,
        "severity": finding.severity,
        "message": _sentence(finding),
        "file": finding.place.file if finding.place else None,
        "line": finding.place.line if finding.place else None,
        "parameters": list(finding.parameters),
        "factor": _number(finding.factor),
        "factors": None if finding.factors is None else list(finding.factors),
        "step": finding.step,
        "evidence": [
            {
                "words": words,
                "factor": _number(factor),
                "file": place.file if place else None,
                "line": place.line if place else None,
            }
            for words, factor, place in finding.evidence
        ],
        "remedy": finding.remedy,
        "reference": finding.reference,
        "trace": finding.trace or None,
    }


def _number(value: Exact | None) -> dict[str, object] | None:
    if value is None:
        return None
    is_exact = not isinstance(value, float)
    return {"value": float(value), "text": said(value), "is_exact": is_exact}
