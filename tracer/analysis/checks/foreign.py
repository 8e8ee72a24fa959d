"""The check of contributions that another loss left in the buffers."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof
from tracer.analysis.checks.program import (
    ADVERSARY,
    VALIDATION,
    Way,
    comes_after,
    parted,
    says,
    way_to,
)
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.repeated import SECTION
from tracer.analysis.checks.traits import depths
from tracer.analysis.checks.windows import buffers_of
from tracer.analysis.history import Entry
from tracer.events import Call, Step


@check(
    "foreign-root",
    severity="warning",
    section=SECTION,
    remedy="empty the buffers before this backward(), or detach what should not be trained by it",
    reference="Lightning-AI/pytorch-lightning#557",
)
def foreign_root(case: Case) -> Iterator[Claim]:
    """A step consumes what the backward call of another loss left in its buffers.

    A generator's loss flows through the discriminator and fills its gradients; if they are not
    emptied before the discriminator's own backward, its step follows both losses. The same happens
    to a critic below an actor's loss.

    Evidence: a contribution whose call another optimizer has consumed, then new calls from another
    line, and then the step that takes all of them. Or a call that other windows of the optimizer do
    not have, and that runs behind the step, where the loop has come to its end, though the next
    step consumes it: a validation loss that is sent backward. Or one that is called so. Or an
    optimizer that takes, beside its own loss, one that only passed its model on the way to that of
    another optimizer, where the lines speak of a discriminator or a critic.

    Silent: when the buffers are emptied in between, when several optimizers share one loss, and
    when a step simply collects several losses, in every window or in some.
    """
    yield from _left_overs(case)
    yield from _both_at_once(case)
    for account in case.accounts:
        step = account.ledger.step
        if step is None:
            continue
        fresh = [e for e in account.fresh if e.call is not None]
        if _are_never_emptied(case, account):
            continue  # missing-zero-grad tells it
        for entry in fresh:
            between = _consumer_between(case, entry, step)
            later = _added_later(case, entry, fresh, between)
            if between is None or not later:
                continue
            yield Claim(
                f"the step of {step.kind} also consumes what another loss left: "
                f"{_call_name(case, entry)} filled these buffers, a step of {between.kind} "
                "followed, and nobody emptied them",
                later[0].source,
                account.buffers,
                None,
                [
                    Proof("the other loss", entry.source),
                    Proof(f"its own step, {between.kind}", between.source),
                    Proof("added to it", later[0].source),
                    Proof(f"consumed, {step.kind}", step.source),
                ],
                account.steps,
                case.looked_at(account),
            )


def _are_never_emptied(case: Case, account: Account) -> bool:
    """Whether the step takes what it has taken before as well, whichever loss left it."""
    names = {case.name(buffer) for buffer in account.buffers}
    return any(
        finding.check == "missing-zero-grad" and names & set(finding.parameters)
        for finding in case.found
    )


def _both_at_once(case: Case) -> Iterator[Claim]:
    """Both losses are sent backward, and then both optimizers step: one has the other's as well."""
    for account in case.accounts:
        step = account.ledger.step
        fresh = [e for e in account.fresh if e.call is not None]
        if step is None or len({case.line(e.source) for e in fresh}) < 2:
            continue
        for entry in fresh:
            other = _trained_by(case, entry, step)
            own = [e for e in fresh if case.line(e.source) != case.line(entry.source)]
            own = [e for e in own if other is not None and not _reaches_any(case, e, other)]
            texts = [case.text(e.source) for e in (entry, *own)]
            texts += [case.name(buffer).rpartition(".")[0] for buffer in account.buffers]
            if other is None or not own or not says(texts, ADVERSARY):
                continue
            if _added_later(case, entry, fresh, _consumer_between(case, entry, step)):
                continue
            yield Claim(
                f"the step of {step.kind} also consumes {_call_name(case, entry)}, which only "
                f"passes these parameters on its way to those of the other {other.kind}",
                entry.source,
                account.buffers,
                None,
                [
                    Proof("the other loss", entry.source),
                    Proof("its own", own[0].source),
                    Proof(f"consumed, {step.kind}", step.source),
                    Proof(f"the other's step, {other.kind}", other.source),
                ],
                account.steps,
                case.looked_at(account),
                remedy="step and empty the one before this backward(), or freeze it for this loss",
            )


def _trained_by(case: Case, entry: Entry, step: Step) -> Step | None:
    """The next step of another optimizer whose parameters lie behind those of this one."""
    facts = case.call(entry.call or 0)
    own = {b for b in buffers_of(step) if b in facts.writers}
    for other in case.trace.steps:
        if other.order < (entry.call or 0) or other.optimizer == step.optimizer:
            continue
        theirs = {b for b in buffers_of(other) if b in facts.writers}
        if not theirs or theirs & own:
            return None
        deep = depths(facts)
        front = max(deep.get(facts.writers[b], 0) for b in own)
        behind = max(deep.get(facts.writers[b], 0) for b in theirs)
        return other if behind > front else None
    return None


def _reaches_any(case: Case, entry: Entry, step: Step) -> bool:
    call = case.call(entry.call or 0).call
    return any(case.books.archive.writes(call, buffer) for buffer in buffers_of(step))


def _left_overs(case: Case) -> Iterator[Claim]:
    """Calls after the end of a window that the next one takes with its own."""
    ways = {id(account): _ways_of(case, account) for account in case.accounts}
    for account in case.accounts:
        step = account.ledger.step
        if step is None:
            continue
        strangers = _strangers(case, account, ways)
        own = [e for e in account.fresh if way_to(case.trace, e.source) not in strangers]
        for entry in account.fresh:
            later = [e for e in own if (e.call or 0) > (entry.call or 0)]
            is_strange = way_to(case.trace, entry.source) in strangers and later
            between = _consumer_between(case, entry, step)
            if is_strange and not _added_later(case, entry, account.fresh, between):
                before = _step_before(case, step, entry)
                if _is_behind(case, entry, before, later[0]) or _is_validation(
                    case, entry, later[0]
                ):
                    yield _left_over(case, account, step, entry, before, later[0])


def _strangers(case: Case, account: Account, all_ways: dict[int, set[Way]]) -> set[Way]:
    """The calls that other windows of the optimizer do not have, by their lines and callers."""
    ways = all_ways[id(account)]
    if len(ways) < 2:
        return set()
    others = [
        all_ways[id(other)]
        for other in case.accounts
        if other.owner == account.owner and set(other.buffers) & set(account.buffers)
    ]
    return {way for way in ways if any(way not in other for other in others)}


def _ways_of(case: Case, account: Account) -> set[Way]:
    return {way_to(case.trace, entry.source) for entry in account.fresh}


def _is_behind(case: Case, entry: Entry, before: Step | None, own: Entry) -> bool:
    """Whether a call stands behind the step in the program, and the window's own before it."""
    if before is None:
        return False
    behind = comes_after(case.trace, entry.source, before.source)
    return bool(behind and not comes_after(case.trace, own.source, before.source))


def _step_before(case: Case, step: Step, entry: Entry) -> Step | None:
    """The last step of the same optimizer before a call."""
    earlier = [s for s in case.trace.steps if s.order < (entry.call or 0)]
    return next((s for s in reversed(earlier) if s.optimizer == step.optimizer), None)


def _is_validation(case: Case, entry: Entry, own: Entry) -> bool:
    """Whether a call, and not the other one, is called a validation by the script."""
    theirs, ours = parted(case.trace, entry.source, own.source)
    return says(theirs, VALIDATION) and not says(ours, VALIDATION)


def _left_over(
    case: Case, account: Account, step: Step, entry: Entry, before: Step | None, own: Entry
) -> Claim:
    ran = "ran after the step before" if before is not None else "ran before"
    return Claim(
        f"the step of {step.kind} also consumes what another loss left: {_call_name(case, entry)} "
        f"{ran}, and nobody emptied the buffers",
        entry.source,
        account.buffers,
        None,
        [
            *([Proof("the step before", before.source)] if before is not None else []),
            Proof("the other loss", entry.source),
            Proof("added to it", own.source),
            Proof(f"consumed, {step.kind}", step.source),
        ],
        account.steps,
        case.looked_at(account),
        remedy="take its loss under torch.no_grad(), or empty the buffers after it",
    )


def _call_name(case: Case, entry: Entry) -> str:
    text = case.text(entry.source)
    return text if text and len(text) < 60 else f"call {case.numbers.get(entry.call or 0, '?')}"


def _added_later(case: Case, entry: Entry, fresh: list[Entry], between: Step | None) -> list[Entry]:
    """What calls of other lines added after another optimizer had made its step with a call."""
    later = [e for e in fresh if between is not None and (e.call or 0) > between.order]
    return [e for e in later if case.line(e.source) != case.line(entry.source)]


def _consumer_between(case: Case, entry: Entry, step: Step) -> Step | None:
    """A step of another optimizer that consumed the same call for buffers of its own."""
    own = set(buffers_of(step))
    call = case.books.archive.by_order.get(entry.call or 0)
    for other in case.trace.steps:
        if other.order >= step.order:
            return None
        if other.optimizer == step.optimizer or other.order < (entry.call or 0):
            continue
        theirs = set(buffers_of(other))
        if theirs & own or not isinstance(call, Call):
            continue
        if any(case.books.archive.writes(call, buffer) for buffer in theirs):
            return other
    return None
