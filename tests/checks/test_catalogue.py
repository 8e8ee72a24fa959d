"""Each check finds its bug, at the line to change and with the factor, and leaves others alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.examined import SCRIPTS, examined, expected_of, scripts_of
from tracer.analysis.exact import said


def name_of(script: Path) -> str:
    return f"{script.parent.name}/{script.stem}"


@pytest.mark.parametrize("script", scripts_of("bug"), ids=name_of)
def test_a_bug_is_found_at_its_line_with_its_factor(script: Path) -> None:
    expected = expected_of(script)
    report = examined(script)
    (found,) = [finding for finding in report.findings if expected.matches(finding)]

    assert script.parent.name == expected.slug
    if expected.line is not None:
        assert found.place is not None
        assert (Path(found.place.file).name, found.place.line) == (script.name, expected.line)
    if expected.factor:
        assert said(found.factor) == expected.factor
    others = {finding.check for finding in report.findings} - {expected.slug}
    assert others <= expected.notes


@pytest.mark.parametrize(
    "script", [*scripts_of("fine"), *sorted((SCRIPTS / "correct").glob("*.py"))], ids=name_of
)
def test_correct_code_has_no_warning_and_only_the_notes_it_expects(script: Path) -> None:
    report = examined(script)

    assert [f"{f.severity} {f.check}: {f.message}" for f in report.findings
            if f.severity != "note"] == []  # fmt: skip
    assert {finding.check for finding in report.findings} <= expected_of(script).notes
