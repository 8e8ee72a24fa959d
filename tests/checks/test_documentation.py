"""Each check has a page, made from its docstring; the table of what they find is what they find."""

from __future__ import annotations

import pytest

from tests.checks.documentation import DOCS, index, page
from tracer.analysis.checks.catalogue import known_checks


@pytest.fixture
def rewrites(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-golden", default=False))


@pytest.mark.parametrize("slug", list(known_checks()))
def test_the_page_of_a_check_is_its_docstring(slug: str, rewrites: bool) -> None:
    expected = page(known_checks()[slug])
    if rewrites:
        (DOCS / f"{slug}.md").write_text(expected, encoding="utf-8")

    assert (DOCS / f"{slug}.md").read_text(encoding="utf-8") == expected, "--rewrite-golden"


def test_there_is_no_page_without_a_check() -> None:
    assert {file.stem for file in DOCS.glob("*.md")} == {*known_checks(), "README"}


@pytest.mark.parametrize("slug", list(known_checks()))
def test_a_check_says_what_it_goes_by_and_when_it_is_silent(slug: str) -> None:
    text = known_checks()[slug].documentation

    assert "\nEvidence: " in text
    assert "\nSilent: " in text


def test_the_table_is_what_the_scripts_show(rewrites: bool) -> None:
    expected = index()
    if rewrites:
        (DOCS / "README.md").write_text(expected, encoding="utf-8")

    assert (DOCS / "README.md").read_text(encoding="utf-8") == expected, "--rewrite-golden"
