"""Findings as SARIF 2.1.0, which code-review tools show at the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracer.analysis.checks.finding import Finding, Place
from tracer.analysis.checks.registry import Check
from tracer.analysis.checks.run import Report
from tracer.analysis.exact import said

__all__ = ["sarif"]

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
BASE = "SRCROOT"
"""What files below the folder of the run are relative to."""

Json = dict[str, Any]


def sarif(
    report: Report, checks: Sequence[Check], version: str, folder: str, traces: Sequence[str]
) -> Json:
    """One run of the tool. `folder` is where the script ran: files below it are told from there."""
    rules = [_rule(check) for check in checks]
    places = {check.slug: number for number, check in enumerate(checks)}
    run: Json = {
        "tool": {"driver": {"name": "gradtrace", "version": version, "rules": rules}},
        "originalUriBaseIds": {BASE: {"uri": _folder_uri(folder)}},
        "properties": {"traces": list(traces)},
        "results": [_result(f, places[f.check], folder) for f in report.findings],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(check: Check) -> Json:
    title, _, text = check.documentation.partition("\n")
    return {
        "id": check.slug,
        "shortDescription": {"text": title.strip()},
        "fullDescription": {"text": " ".join(text.split()) or title.strip()},
        "help": {"text": check.remedy},
        "defaultConfiguration": {"level": check.severity},
    }


def _result(finding: Finding, rule: int, folder: str) -> Json:
    where = f" ({finding.where})" if finding.where else ""
    result: Json = {
        "ruleId": finding.check,
        "ruleIndex": rule,
        "level": finding.severity,
        "message": {"text": f"{finding.message}{where}. To do: {finding.remedy}."},
        "locations": [_location(finding.place, folder)] if finding.place else [],
        "properties": {
            "parameters": list(finding.parameters),
            "factor": None if finding.factor is None else said(finding.factor),
            "step": finding.step,
        },
    }
    steps = [
        {"location": {**_location(place, folder), "message": {"text": _words(words, factor)}}}
        for words, factor, place in finding.evidence
        if place is not None
    ]
    if steps:
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    return result


def _words(words: str, factor: Any) -> str:
    return words if factor is None else f"{words}: x {said(factor)}"


def _location(place: Place, folder: str) -> Json:
    physical: Json = {"artifactLocation": _artifact(place.file, folder)}
    if place.line > 0:
        physical["region"] = {"startLine": place.line}
        if place.text.strip():
            physical["region"]["snippet"] = {"text": place.text.rstrip()}
    return {"physicalLocation": physical}


def _artifact(file: str, folder: str) -> Json:
    path = Path(file)
    if path.is_absolute() and folder and path.is_relative_to(folder):
        return {"uri": _quoted(path.relative_to(folder)), "uriBaseId": BASE}
    return {"uri": path.as_uri()} if path.is_absolute() else {"uri": _quoted(path)}


def _quoted(path: Path) -> str:
    """A relative path as a URI: `Path.as_uri` quotes, but wants a root."""
    return (Path("/") / path).as_uri().removeprefix("file:///")


def _folder_uri(folder: str) -> str:
    return Path(folder or "/").absolute().as_uri().rstrip("/") + "/"
