"""From traces to findings: every check asked, claims of one cause joined, comments respected."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tracer.analysis.checks.case import Case
from tracer.analysis.checks.catalogue import chosen, known_checks
from tracer.analysis.checks.finding import SEVERITIES, Claim, Finding, Place
from tracer.analysis.checks.registry import Check
from tracer.analysis.exact import said, tidy

__all__ = ["Report", "examine"]

SILENCED = re.compile(r"#\s*tracer:\s*ignore(?:\[([^\]]*)\])?")
MOST_EVIDENCE = 8


@dataclass(frozen=True)
class Report:
    """The findings, most severe first, and how many a comment in the script silenced."""

    findings: tuple[Finding, ...]
    silenced: int = 0

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing above a note."""
        return all(finding.severity == "note" for finding in self.findings)


def examine(
    cases: Sequence[Case], select: Iterable[str] = (), ignore: Iterable[str] = ()
) -> Report:
    """Ask every check about every trace, and keep what is wanted.

    Raises:
        WrongUse: a slug in `select` or `ignore` that no check has.
    """
    wanted = {one.slug for one in chosen(select, ignore)}
    found: list[Finding] = []
    for case in cases:
        trace = str(case.trace.path) if len(cases) > 1 else ""
        for one in known_checks().values():  # all: some look at what others found
            case.found += [replace(f, trace=trace) for f in _findings(case, one)]
        found += [finding for finding in case.found if finding.check in wanted]
    kept = [finding for finding in found if not is_silenced(finding)]
    ranked = sorted(kept, key=_rank)
    return Report(tuple(ranked), len(found) - len(kept))


def is_silenced(finding: Finding) -> bool:
    """Whether its line says `# tracer: ignore[slug]`, or `# tracer: ignore` for all."""
    match = SILENCED.search(finding.place.text) if finding.place is not None else None
    if match is None:
        return False
    slugs = [slug.strip() for slug in (match[1] or "").split(",") if slug.strip()]
    return not slugs or finding.check in slugs


def _findings(case: Case, check: Check) -> list[Finding]:
    places: dict[object, list[Claim]] = {}
    for claim in check.function(case):
        severity = claim.severity or check.severity
        key = (case.line(claim.source), severity) if claim.source is not None else claim.message
        places.setdefault(key, []).append(claim)
    return [_joined(case, check, claims) for claims in places.values()]


def _joined(case: Case, check: Check, claims: list[Claim]) -> Finding:
    first = max(claims, key=_extent)
    factors = [claim.factor for claim in claims if claim.factor is not None]
    sizes = sorted(float(factor) for factor in factors)
    is_one = len({said(factor) for factor in factors}) <= 1
    steps = sorted({step for claim in claims for step in claim.steps})
    buffers = sorted({buffer for claim in claims for buffer in claim.buffers})
    return Finding(
        check=check.slug,
        severity=first.severity or check.severity,
        message=first.message,
        place=_place(case, first.source),
        parameters=tuple(dict.fromkeys(case.name(buffer) for buffer in buffers)),
        factor=_tidied(_usual(claims)),
        factors=None if is_one else (sizes[0], sizes[-1]),
        where=_where(steps, max(claim.looked for claim in claims), is_worst=not is_one),
        evidence=tuple(
            (proof.words, _tidied(proof.factor), _place(case, proof.source))
            for proof in list(dict.fromkeys(first.evidence))[:MOST_EVIDENCE]
        ),
        remedy=first.remedy or check.remedy,
        reference=check.reference,
        step=steps[0] if steps else None,
    )


def _usual(claims: Sequence[Claim]) -> Fraction | float | None:
    """The factor of more than half of the windows, None where there is none."""
    counts: dict[str, int] = {}
    for claim in claims:
        if claim.factor is not None:
            words = said(claim.factor)
            counts[words] = counts.get(words, 0) + max(len(claim.steps), 1)
    words = max(counts, key=lambda one: counts[one], default="")
    if 2 * counts.get(words, 0) <= sum(counts.values()):
        return None
    return next(c.factor for c in claims if c.factor is not None and said(c.factor) == words)


def _extent(claim: Claim) -> float:
    """How far a factor is from 1: the message is that of the worst window."""
    size = abs(float(claim.factor)) if claim.factor is not None else 0.0
    return abs(math.log(size)) if size and math.isfinite(size) else 0.0


def _tidied(factor: Fraction | float | None) -> Fraction | float | None:
    return tidy(factor) if isinstance(factor, float) else factor


def _where(steps: Sequence[int], looked: int, *, is_worst: bool) -> str:
    """The windows it holds in; where their factors differ, the words before are of the worst."""
    if looked < 2 or not steps:
        return ""
    words = f"in {len(steps):,} of {looked:,} windows, first at step {steps[0]}"
    if len(steps) >= looked:
        words = f"in each of {looked:,} windows"
    return f"at worst; {words}" if is_worst else words


def _place(case: Case, source: int | None) -> Place | None:
    found = case.source(source)
    return None if found is None else Place(found.file, found.line, found.text)


def _rank(finding: Finding) -> tuple[int, int, str, int]:
    place = finding.place or Place("", 0)
    is_consequence = finding.place is None
    return SEVERITIES.index(finding.severity), is_consequence, place.file, place.line
