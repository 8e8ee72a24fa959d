"""The pages of docs/checks, made from the checks themselves and from what their scripts show."""

from __future__ import annotations

import re
from pathlib import Path

from tests.checks.examined import SCRIPTS, examined, expected_of, look_alikes
from tracer.analysis.checks.catalogue import known_checks
from tracer.analysis.checks.registry import Check
from tracer.analysis.exact import said

__all__ = ["DOCS", "index", "page", "table"]

DOCS = Path(__file__).parents[2] / "docs" / "checks"

HEAD = """# The checks

Rules over the ledgers and graphs of a trace: `gradtrace check TRACE`, or `gradtrace trace --check`.
[How findings are reported](../commands/check.md) is told with the command. Each page is the
docstring of its check.

"""

PROOF = """
## What they find, and where they are silent

Each check has a script with the bug and scripts that look like it and are right, in
`tests/checks/scripts/`; `correct/` has {correct} more that are right. This table is made by
`python -m tests.checks.table` from what is found in their traces, and a test keeps it true.
"Silent" means no warning and no error, and no note that the script does not expect. The checks of
ranks have theirs in `tests/ranks/bugs.py`, which run as real jobs of two processes.

| check | found | at its line | factor | silent on look-alikes | silent on the correct set |
|---|---|---|---|---|---|
"""


def page(check: Check) -> str:
    """The page of one check."""
    title, *paragraphs = re.split(r"\n\s*\n", check.documentation)
    parts = [f"# {check.slug}", f"*{check.severity}, {check.section.lower()}*", title]
    parts += [_marked(paragraph) for paragraph in paragraphs]
    parts.append(f"**Remedy:** {check.remedy}.")
    if check.reference:
        parts.append(f"**Met in:** {check.reference}.")
    return "\n\n".join(parts) + "\n"


def _marked(paragraph: str) -> str:
    return re.sub(r"^(Evidence|Silent):", r"**\1:**", paragraph)


def index() -> str:
    """The list of all checks, by section, and the table of what was shown."""
    lines = [HEAD.rstrip("\n")]
    section = ""
    for check in sorted(known_checks().values(), key=lambda c: _sections().index(c.section)):
        if check.section != section:
            section = check.section
            lines += [
                "",
                f"## {section}",
                "",
                "| check | at most | what it finds |",
                "|---|---|---|",
            ]
        title = check.documentation.partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| [`{check.slug}`]({check.slug}.md) | {check.severity} | {title} |")
    return "\n".join(lines) + "\n" + table()


def _sections() -> list[str]:
    return list(dict.fromkeys(check.section for check in known_checks().values()))


def table() -> str:
    """Found, at its line, with its factor; silent elsewhere."""
    correct = sorted((SCRIPTS / "correct").glob("*.py"))
    rows = [_row(slug, correct) for slug in known_checks() if (SCRIPTS / slug).is_dir()]
    return PROOF.format(correct=len(correct)) + "".join(rows)


def _row(slug: str, correct: list[Path]) -> str:
    bugs = sorted((SCRIPTS / slug).glob("bug*.py"))
    found, lines, factors = 0, 0, []
    for script in bugs:
        expected = expected_of(script)
        findings = [f for f in examined(script).findings if expected.matches(f)]
        found += len(findings) == 1
        for finding in findings:
            is_there = finding.place is not None and finding.place.line == expected.line
            lines += is_there or expected.line is None
            if expected.factor:  # others are measured, and differ between machines
                is_right = said(finding.factor) == expected.factor
                factors.append(expected.factor if is_right else "WRONG")
    factor = ", ".join(dict.fromkeys(f"x {f}" for f in factors if f)) or "-"
    alike = look_alikes(slug)
    silent = sum(_is_silent(script, slug) for script in alike)
    quiet = sum(_is_silent(script, slug) for script in correct)
    return (
        f"| `{slug}` | {found} of {len(bugs)} | {lines} of {len(bugs)} | {factor} | "
        f"{silent} of {len(alike)} | {quiet} of {len(correct)} |\n"
    )


def _is_silent(script: Path, slug: str) -> bool:
    notes = expected_of(script).notes
    return not any(
        finding.check == slug and (finding.severity != "note" or slug not in notes)
        for finding in examined(script).findings
    )
