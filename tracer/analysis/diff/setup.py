"""What differs around two runs: batches, calls, replicas, ranks, optimizers, versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.analysis.diff.sides import Side
from tracer.analysis.diff.timeline import Match
from tracer.analysis.diff.updates import Update

__all__ = ["Setting", "settings_of"]


@dataclass(frozen=True)
class Setting:
    """Something that is not the same in both; `detail` is known for options of single groups."""

    name: str
    a: str
    b: str


Reader = Callable[[Side, int, Match, str], str]


def _items(side: Side, buffer: int, match: Match, which: str) -> str:
    """Of each loss of one step, all its calls together; those that are alike once."""
    moment = match.a if which == "a" else match.b
    counts = []
    for term in side.verdict(buffer, moment).terms:
        samples = [row.samples for row in term.rows]
        known = [s for s in samples if s is not None]
        is_known = len(known) == len(samples) and any(s.each > 1 for s in known)
        counts.append(
            f"{sum(s.count for s in known)} samples" if is_known else f"{term.items} items"
        )
    return ", ".join(dict.fromkeys(counts)) or "?"


def _calls(side: Side, buffer: int, match: Match, which: str) -> str:
    return str(len(side.calls(match.a if which == "a" else match.b)))


def _replicas(side: Side, buffer: int, match: Match, which: str) -> str:
    return str(side.ledger(buffer, match.a if which == "a" else match.b).replicas)


def _ranks(side: Side, buffer: int, match: Match, which: str) -> str:
    return str(side.trace.info.world)


def _optimizer(side: Side, buffer: int, match: Match, which: str) -> str:
    step = (match.a if which == "a" else match.b).step
    return step.kind if step is not None else "none"


def _steps(side: Side, buffer: int, match: Match, which: str) -> str:
    return str(len(side.trace.steps))


def _precision(side: Side, buffer: int, match: Match, which: str) -> str:
    """The dtypes of all gradients of the step, that of the parameters first."""
    moment = match.a if which == "a" else match.b
    found = {side.trace.buffers[buffer].dtype: None}
    for call in side.calls(moment)[:1]:
        forms = {c.form for c in side.trace.layout(call.layout).contributions}
        found |= dict.fromkeys(sorted({side.trace.forms[form].dtype for form in forms}))
    return ", ".join(found)


def _devices(side: Side, buffer: int, match: Match, which: str) -> str:
    return side.trace.buffers[buffer].device


def _skipped(side: Side, buffer: int, match: Match, which: str) -> str:
    return str(sum(edit.kind == "step_skipped" for edit in side.trace.edits))


def _status(side: Side, buffer: int, match: Match, which: str) -> str:
    return side.trace.info.failure or side.trace.info.status


READERS: tuple[tuple[str, Reader], ...] = (
    ("items per step", _items),
    ("backward calls per step", _calls),
    ("replicas", _replicas),
    ("ranks", _ranks),
    ("precision", _precision),
    ("device", _devices),
    ("optimizer", _optimizer),
    ("steps recorded", _steps),
    ("steps skipped by GradScaler", _skipped),
    ("run", _status),
)


def settings_of(a: Side, b: Side, match: Match | None, updates: Sequence[Update]) -> list[Setting]:
    """Everything that differs, as of one parameter that stands for the others."""
    found = []
    if match is not None:
        found += [
            Setting(name, read(a, match.pair.a, match, "a"), read(b, match.pair.b, match, "b"))
            for name, read in READERS
        ]
    found += _options(updates)
    versions = {**a.trace.info.versions, **b.trace.info.versions}
    found += [
        Setting(name, a.trace.info.versions.get(name, "?"), b.trace.info.versions.get(name, "?"))
        for name in versions
    ]
    return [setting for setting in found if setting.a != setting.b]


def _options(updates: Sequence[Update]) -> list[Setting]:
    """Options that differ; of which parameters, where they do not of all."""
    found: dict[tuple[str, str, str], list[Update]] = {}
    for update in updates:
        for name, left, right in update.updates.options:
            found.setdefault((name, _told(left), _told(right)), []).append(update)
    return [
        Setting(name if len(of) == len(updates) else f"{name} of {_members(of)}", left, right)
        for (name, left, right), of in found.items()
    ]


def _members(updates: Sequence[Update]) -> str:
    names = [match.pair.name_a for update in updates for match in update.members]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _told(value: object) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
