"""Checks of what happens to a gradient after the loss: scales, clips, hooks, edits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.windows import buffers_of
from tracer.analysis.exact import is_same, said, tidy
from tracer.analysis.history import Change, Entry
from tracer.analysis.strand import Factor
from tracer.events import Edit, Step
from tracer.semantics.effects import Exact

SECTION = "Precision, clipping, hooks, optimizer"
ONE = Fraction(1)


# Loss scales.


@check(
    "clip-before-unscale",
    severity="error",
    section=SECTION,
    remedy="call scaler.unscale_(optimizer) before the clip",
    reference="pytorch/examples#1196",
)
def clip_before_unscale(case: Case) -> Iterator[Claim]:
    """Gradients are clipped while they still carry the loss scale, 65536 or so.

    Their norm is that many times too large, so every step is cut down to max_norm, and the
    unscaling afterwards makes max_norm / scale of it.

    Evidence: a clip with a coefficient below 1, then an unscaling of the same gradients, by a
    `GradScaler` or by hand (what multiplied the loss divides `.grad`). The factor
    is the coefficient that was applied over the one that would have been. Or a clip by value that
    changed them: it cuts at its bound over the scale, and there is no one factor.

    Silent: when `unscale_` comes first.
    """
    for account in case.accounts:
        if not account.steps or not account.entries:
            continue
        changes = account.entries[0].changes
        for place, change in enumerate(changes):
            after = [c for c in changes[place + 1 :] if _unscales(account, c)]
            edit = case.books.archive.by_order.get(change.order)
            if not after or not isinstance(edit, Edit):
                continue
            if change.kind == "clip_grad_norm":
                yield _clipped_scaled(case, account, edit, change, after[0])
            elif change.kind == "clip_grad_value" and not is_same(change.factor, ONE):
                yield _cut_scaled(case, account, edit, change, after[0])


def _unscales(account: Account, change: Change) -> bool:
    """Whether a change takes a loss scale out again: a GradScaler's, or one by hand."""
    if change.kind == "unscale":
        return True
    if change.kind != "edit" or change.factor is None:
        return False
    scale = [f.value for row in account.rows for f in row.loss if f.kind == "scale"]
    return any(s is not None and s > 1 and is_same(s * change.factor, ONE) for s in scale)


def _clipped_scaled(
    case: Case, account: Account, edit: Edit, clip: Change, unscale: Change
) -> Claim:
    scale = ONE / unscale.factor if unscale.factor else ONE
    most, norm = float(edit.details["max_norm"]), float(edit.details["total_norm"])
    right = min(1.0, most / (norm / float(scale) + 1e-6))
    coefficient = float(edit.details["coefficient"])
    # Where both clip, what is left of the factor is the scale alone, but for the 1e-6 in the clip.
    factor: Exact = 1 / scale if right < 1 else tidy(coefficient / right)
    return Claim(
        f"clipped while the gradients still carry the loss scale {said(scale)}: the norm is "
        f"{norm:.4g} instead of {norm / float(scale):.4g}, and the step {said(factor)} of what it "
        "should be",
        clip.source,
        account.buffers,
        factor,
        [
            Proof(f"clip to max_norm {most:g} of a norm of {norm:.4g}", clip.source, clip.factor),
            Proof("unscaled afterwards", unscale.source, unscale.factor),
        ],
        account.steps,
        case.looked_at(account),
    )


def _cut_scaled(case: Case, account: Account, edit: Edit, clip: Change, unscale: Change) -> Claim:
    scale = ONE / unscale.factor if unscale.factor else ONE
    bound = float(edit.details["clip_value"])
    return Claim(
        f"clipped by value while the gradients still carry the loss scale {said(scale)}: every "
        f"element is cut at {bound / float(scale):.4g} instead of {bound:g}",
        clip.source,
        account.buffers,
        None,
        [
            Proof(f"clip to {bound:g}", clip.source, clip.factor),
            Proof("unscaled afterwards", unscale.source, unscale.factor),
        ],
        account.steps,
        case.looked_at(account),
    )


@check(
    "mixed-scales",
    severity="error",
    section=SECTION,
    remedy="scale every loss of a window with the same scaler, and unscale once, before the step",
    reference="the gradient accumulation example of torch.amp, read wrongly",
)
def mixed_scales(case: Case) -> Iterator[Claim]:
    """Some contributions of a window carry the loss scale and some do not.

    `unscale_` inside the loop unscales the first call, and the following ones are added to it 65536
    times as large. Or one loss of several was sent backward without `scaler.scale`.

    Evidence: an unscaling between two contributions of one window, or one that divides what was
    never multiplied. The factor is the whole against what the items of all calls should be.

    Silent: when the unscaling follows the last call and every loss was scaled.
    """
    for account in case.accounts:
        if not account.steps or len(account.fresh) < 2:
            continue
        unscaled = {c.order: c for e in account.fresh for c in e.changes if c.kind == "unscale"}
        for change in unscaled.values():
            if change.factor:
                yield from _mixed(case, account, change, 1 / change.factor)


def _mixed(case: Case, account: Account, unscale: Change, scale: Exact) -> Iterator[Claim]:
    scaled = {e.call: _is_scaled(account, e, scale) for e in account.fresh}
    unscaled = {e.call: unscale in e.changes for e in account.fresh}
    late = [e for e in account.fresh if scaled[e.call] and not unscaled[e.call]]
    bare = [e for e in account.fresh if unscaled[e.call] and not scaled[e.call]]
    count = len(account.fresh)
    if late and len(late) < count:
        yield _mixture(
            case, account, unscale.source, (count - len(late) + len(late) * scale) / count,
            f"unscaled before the last call of the window: {len(late)} of {count} calls are "
            f"added with the loss scale {said(scale)}", unscale, late[0],
        )  # fmt: skip
    if bare and len(bare) < count:
        yield _mixture(
            case, account, bare[0].source, (count - len(bare) + len(bare) / scale) / count,
            f"{len(bare)} of {count} calls of a window were not multiplied by the loss scale "
            f"{said(scale)} that all are divided by", unscale, bare[0],
        )  # fmt: skip


def _is_scaled(account: Account, entry: Entry, scale: Exact) -> bool:
    rows = account.rows_of(entry.call) if entry.call is not None else []
    return any(is_same(f.value, scale) for row in rows for f in row.loss)


def _mixture(
    case: Case, account: Account, source: int | None, factor: Exact, message: str,
    unscale: Change, entry: Entry,
) -> Claim:  # fmt: skip
    return Claim(
        message,
        source,
        account.buffers,
        factor,
        [
            Proof("unscaled", unscale.source, unscale.factor),
            Proof("the other scale", entry.source),
        ],
        account.steps,
        case.looked_at(account),
    )


# Hooks and edits.


@check(
    "hook-scales",
    severity="note",
    section=SECTION,
    remedy="nothing, if it is meant; else remove the hook",
)
def hook_scales(case: Case) -> Iterator[Claim]:
    """A hook of the script multiplies the gradient by a number.

    Evidence: what a node received is not what was sent to it, or what is in a buffer not what was
    added, but a multiple; a hook was there.

    Silent: for hooks that only look, for those that change the direction, and for those that pile
    up, which is a finding of its own.
    """
    piled = {b for claim in hooks_pile_up(case) if claim.factor is not None for b in claim.buffers}
    for account in case.accounts:
        if piled.issuperset(account.buffers):
            continue
        for factor in _hook_factors(account):
            if factor.value is None or not math.isfinite(factor.value):
                continue
            if is_same(factor.value, ONE):
                continue
            yield Claim(
                f"the gradient is multiplied by {said(factor.value)}: {factor.words}",
                case.hook_line(account, factor.source),
                account.buffers,
                factor.value,
                [Proof(factor.words, factor.source, factor.value)],
                account.steps,
                case.looked_at(account),
            )


def _hook_factors(account: Account) -> list[Factor]:
    found = [f for row in account.rows for f in row.after if f.kind == "hook"]
    return list(dict.fromkeys(found))


@check(
    "hooks-pile-up",
    severity="warning",
    section=SECTION,
    remedy="register the hook once, or remove the old one by its handle",
    reference="hooks registered in the training loop; pytorch/pytorch forum threads",
)
def hooks_pile_up(case: Case) -> Iterator[Claim]:
    """A hook is registered on a parameter again and again, and the factor grows as a power.

    Evidence: the number of hooks on a leaf grows from call to call, and with it the factor of what
    they do. If it grew only once: the same line registered all of them, and the factor is that
    power of what it was. A note if what they do leaves the gradient as it is.

    Silent: for a constant number of hooks.
    """
    counts = _hook_counts(case)
    for buffers, seen in counts.items():
        numbers = [number for number, _ in seen]
        grown = [b for a, b in pairwise(numbers) if b > a]
        if not grown or sorted(numbers) != numbers:
            continue
        accounts = [a for a in case.accounts if set(a.buffers) & set(buffers)]
        factors = [factor.value for account in accounts for factor in _hook_factors(account)]
        if len(grown) < 2 and not _is_power(case, accounts, numbers, factors):
            continue
        changes = len({said(f) for f in factors}) > 1
        severity: Severity = "warning" if changes else "note"
        last = factors[-1] if factors else None
        effect = f", the factor from {said(factors[0])} to {said(last)}" if changes else ""
        yield Claim(
            f"hooks pile up: {numbers[0]} at first, {numbers[-1]} in the end{effect}",
            case.hook_line(accounts[-1], None) if accounts else None,
            buffers,
            last if changes else None,
            [
                Proof(f"{number} hook{'s' if number > 1 else ''}", source)
                for number, source in seen[:4]
            ],
            [],
            0,
            severity,
        )


def _is_power(
    case: Case, accounts: list[Account], numbers: list[int], factors: list[Exact | None]
) -> bool:
    """Whether hooks of one line, n and then m, multiplied by f^n and then by f^m."""
    if len(factors) < 2 or factors[0] is None or factors[-1] is None:
        return False
    first, last = abs(float(factors[0])), abs(float(factors[-1]))
    if first in (0.0, 1.0) or last == 0 or not math.isfinite(first * last) or not accounts:
        return False
    power = math.log(last) / math.log(first)
    is_grown = math.isclose(power, numbers[-1] / numbers[0], rel_tol=1e-4)
    return is_grown and len({case.line(line) for line in case.hook_lines(accounts[-1])}) == 1


def _hook_counts(case: Case) -> dict[tuple[int, ...], list[tuple[int, int | None]]]:
    """For buffers alike: the hooks on them in each call that wrote them, with the call's line."""
    per_buffer: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    for call in case.trace.calls:
        for buffer, hooks in case.traits(call.layout).hooked:
            per_buffer[buffer].append((hooks, call.source))
    alike: dict[tuple[tuple[int, int | None], ...], list[int]] = defaultdict(list)
    for buffer, seen in per_buffer.items():
        alike[tuple(seen)].append(buffer)
    return {tuple(buffers): list(seen) for seen, buffers in alike.items()}


@check(
    "grad-edited",
    severity="note",
    section=SECTION,
    remedy="nothing, if it is meant",
)
def grad_edited(case: Case) -> Iterator[Claim]:
    """`.grad` was changed in place, by none of torch's own functions.

    Evidence: what one event left in the buffer is not what the next one found. If it is a multiple,
    its factor is known; of a single number any value is a multiple, and only a simple one is told.

    Silent: for clips, unscaling, zero_grad and hooks, which are known by themselves, and for what
    `double-division` finds.
    """
    for account in case.accounts:
        changes = dict.fromkeys(
            c for e in account.entries for c in e.changes if c.kind == "edit" and not c.is_announced
        )
        for change in changes:
            factor = change.factor
            if factor is not None and (is_same(factor, ONE) or _is_found(case, account, factor)):
                continue
            tensor = account.entries[0].tensor
            if isinstance(factor, float) and tensor is not None and tensor.elements == 1:
                factor = None  # a single number is a multiple of any other
            by = f"multiplied by {said(factor)}" if factor else "not by a factor"
            noticed = case.event_source(change.noticed)
            yield Claim(
                f"the gradient was changed by hand before this line, {by}",
                noticed if noticed is not None else change.source,
                account.buffers,
                factor,
                [
                    Proof("left as it was", case.event_source(change.order)),
                    Proof(f"found changed, {by}", noticed, factor),
                ],
                account.steps,
                case.looked_at(account),
            )


def _is_found(case: Case, account: Account, factor: Exact) -> bool:
    """Whether the edit is the second of the divisions that were found already."""
    name = case.name(account.buffers[0])
    return any(
        is_same(seen, factor)
        for finding in case.found
        if finding.check == "double-division" and name in finding.parameters
        for _, seen, _ in finding.evidence
    )


@check(
    "no-gradient",
    severity="note",
    section=SECTION,
    remedy="use the parameter, freeze it, or leave it out of the optimizer",
)
def no_gradient(case: Case) -> Iterator[Claim]:
    """Parameters of an optimizer that never received a gradient.

    A branch of the model is not used, its output is detached, or the optimizer was given parameters
    of another model. They never move.

    Evidence: they need a gradient, an optimizer holds them, and `.grad` was None at every step.

    Silent: for frozen parameters.
    """
    consumed = {b for step in case.trace.steps for b in case.traits(step.layout).read}
    written = {b for call in case.trace.calls for b in case.traits(call.layout).received}
    by_line: dict[object, list[Step]] = defaultdict(list)
    for step in case.trace.steps:
        by_line[case.line(step.source)].append(step)
    for steps in by_line.values():
        alone = set()
        for step in steps:
            frozen = {b for group in step.groups for b in group.get("frozen", ())}
            alone |= set(buffers_of(step)) - frozen - consumed - written
        if not alone:
            continue
        kinds = " and ".join(dict.fromkeys(step.kind for step in steps))
        yield Claim(
            f"{len(alone)} parameter{'' if len(alone) == 1 else 's'} of {kinds} never received a "
            f"gradient, in {len(steps):,} step{'' if len(steps) == 1 else 's'}",
            steps[0].source,
            sorted(alone),
            None,
            [Proof("the step", steps[0].source)],
            [],
            0,
        )
