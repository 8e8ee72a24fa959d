"""Checks of gradients that no optimizer of the run steps or empties, and of what they disturb."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from tracer.analysis.checks.case import Case
from tracer.analysis.checks.finding import Claim, Proof
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.windows import buffers_of
from tracer.analysis.exact import is_zero, tidy
from tracer.events import Call, Edit, Reset

LEAST_EFFECT = 0.99
"""A clip that strangers tighten by less than a hundredth is not told."""


@check(
    "clip-counts-unused",
    severity="warning",
    section="Precision, clipping, hooks, optimizer",
    remedy="freeze what is not trained (`requires_grad_(False)`), or clip only what the optimizer "
    "steps",
    reference="adapters on a base model that was left out of the optimizer but not frozen",
)
def clip_counts_unused(case: Case) -> Iterator[Claim]:
    """A clip by norm counts gradients that no optimizer steps and nobody empties.

    Parameters that are left out of the optimizer still get gradients. `optimizer.zero_grad()` does
    not empty them, so they grow from step to step, and with them the norm that
    `clip_grad_norm_(model.parameters(), ...)` divides by: what is trained gets less and less.

    Evidence: a clip of parameters of which no optimizer of the run holds some; these were not
    emptied since the clip before, and backward calls added to them; without them the coefficient
    would have been larger. The factor is the one coefficient over the other.

    Silent: for parameters of another optimizer, for those that are emptied (`model.zero_grad()`),
    and where the clip has nothing to do or they make less than a hundredth of a difference.
    """
    held = {buffer for step in case.trace.steps for buffer in buffers_of(step)}
    if not held:
        return
    clips = [e for e in case.trace.events if isinstance(e, Edit) and e.kind == "clip_grad_norm"]
    counted = {edit.order: _strangers(case, edit, held) for edit in clips}
    left: set[int] = set()
    written: set[int] = set()
    for event in case.trace.events if any(counted.values()) else ():
        if isinstance(event, Reset):
            left -= set(event.buffers)
        elif isinstance(event, Call):
            written |= {b for b in left if case.books.archive.writes(event, b)}
            left -= {b for b in left if _finds_empty(case, event, b)}
        elif isinstance(event, Edit) and event.order in counted:
            yield from _tightened(case, event, counted[event.order], left & written, len(clips))
            left |= set(counted[event.order])
            written -= set(counted[event.order])


def _strangers(case: Case, edit: Edit, held: set[int]) -> dict[int, float]:
    """The norms that a clip found of what no optimizer holds, if it clips others as well."""
    readings = [r for r in case.trace.layout(edit.layout).readings if r.moment == "before"]
    buffers = {reading.buffer for reading in readings}
    if not buffers & held:
        return {}
    found = {}
    for buffer in buffers - held:
        tensor = case.books.archive.reading(edit, buffer, "before")
        if tensor is not None and tensor.measured is not None and not is_zero(tensor.measured):
            found[buffer] = tensor.measured.norm
    return found


def _finds_empty(case: Case, call: Call, buffer: int) -> bool:
    """Whether a call that writes a buffer found nothing in it: it was emptied by hand."""
    archive = case.books.archive
    return archive.writes(call, buffer) and archive.finds_nothing(call, buffer, "before")


def _tightened(
    case: Case, edit: Edit, norms: dict[int, float], stale: set[int], looked: int
) -> Iterator[Claim]:
    """A clip whose norm is that of stale gradients, too."""
    strangers = sorted(set(norms) & stale)
    whole, most = float(edit.details["total_norm"]), float(edit.details["max_norm"])
    others = math.hypot(*(norms[buffer] for buffer in strangers))
    if not strangers or not math.isfinite(whole) or others >= whole * (1 + 1e-4):
        return  # another norm than the square one
    own = math.sqrt(max(whole**2 - others**2, 0.0))
    coefficient, right = (min(1.0, most / (norm + 1e-6)) for norm in (whole, own))
    factor = coefficient / right
    if factor > LEAST_EFFECT:
        return
    count = Counter(case.trace.buffers[buffer].is_parameter for buffer in strangers)[True]
    yield Claim(
        f"the norm that is clipped counts gradients of {count} parameters that no optimizer steps "
        f"and nobody empties: it is {whole:.4g} instead of {own:.4g}, and the step {factor:.4g} of "
        "what it should be",
        edit.source,
        strangers,
        tidy(factor),
        [
            Proof(f"clip to max_norm {most:g} of a norm of {whole:.4g}", edit.source,
                  tidy(coefficient)),
            Proof(f"of which not stepped and not emptied: {others:.4g}", edit.source),
        ],
        [edit.step],
        looked,
    )  # fmt: skip
