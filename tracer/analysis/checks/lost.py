"""Checks of the buffer's story: calls that no step consumed, and steps that consumed the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.checks.case import Case
from tracer.analysis.checks.closures import inside
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.program import EVERY_SO_MANY, parted, says
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.repeated import SECTION, counts_again
from tracer.analysis.checks.weights import call_total, is_known
from tracer.analysis.checks.windows import buffers_of
from tracer.analysis.exact import is_same, proportion, rounding
from tracer.analysis.history import ratio
from tracer.events import Call, Edit, Reset, Step
from tracer.semantics.effects import Exact

ONE = Fraction(1)
MOST_FOLLOWED = 500_000
"""Events times classes of buffers whose story is followed through the run, a second's worth."""


# What no step consumed, and what two steps did.


@dataclass
class _Fate:
    """What became of the calls of one line, over the whole run."""

    consumed: Counter[int] = field(default_factory=Counter)
    """Per window, how many."""
    lost: list[tuple[Reset, list[int]]] = field(default_factory=list)
    idle: list[tuple[Reset, list[int], Step]] = field(default_factory=list)
    """Those of the lost after which a step of their optimizer found nothing to consume."""
    beside: list[tuple[Reset, int, list[int], Step]] = field(default_factory=list)
    """Where others of the line were consumed: how many were lost, and those the step took."""
    replaced: list[tuple[Reset, list[int], list[int], Step]] = field(default_factory=list)
    """Where a step took calls of other lines only: those that were lost, and those it took."""
    unlearnt: list[tuple[Reset, list[int], Step]] = field(default_factory=list)
    """Those of the lost after which a step found nothing in these buffers, whatever in others."""


@check(
    "lost-contributions",
    severity="warning",
    section=SECTION,
    remedy="step before emptying the buffers, or keep the rest for the next window",
    reference="ultralytics/ultralytics#11217",
)
def lost_contributions(case: Case) -> Iterator[Claim]:
    """`zero_grad` throws away backward calls that no step has consumed.

    A script that accumulates k batches and empties the buffers at the start of each epoch loses the
    rest of the epoch before: these items were never learnt from.

    Evidence: the buffers are emptied with contributions of a line in them that is otherwise
    consumed k at a time, and fewer than k were there. Or they are emptied every time between the
    backward call and the step, which then finds nothing at all. Or each call is divided by k, or
    the step is made in every k-th turn of a loop, and of the k calls that a line makes before a
    step some are thrown away. Or a line's loss is thrown
    away in every window, and what the step consumes is another loss; or every call that reaches
    some parameters is, and the step has nothing for them (a loop over heads that empties in it).

    Silent: for buffers that are always emptied before their own backward: what was thrown away has
    moved something else (GAN), gave the gradient of an input, is a part of the loss that follows,
    or is that very loss (SAM). For gradients that are not finite, and for steps that a GradScaler
    left out. A note where single calls are thrown away now and then, as a script does that skips
    bad batches, and where the same loss of other items follows. For steps with a closure, which
    make their gradients themselves.
    """
    found = _fates(case)
    used = {line for fates in found.values() for line, fate in fates.items() if fate.consumed}
    for buffers, fates in found.items():
        for source, fate in fates.items():
            if source not in used and len(fate.replaced) == len(fate.lost):
                yield from _replaced(case, buffers, source, fate)
            usual = max(fate.consumed.values(), default=0)
            cut = list(_cut_windows(case, buffers, source, fate))
            if cut:
                yield from cut
                continue
            if not usual and len(fate.idle) == len(fate.lost):
                yield from _idle_steps(case, buffers, source, fate)
            elif fate.unlearnt and not any(other.consumed for other in fates.values()):
                yield from _never_learnt(case, buffers, source, fate)
            if usual and len(fate.lost) < len(fate.consumed):
                yield from _now_and_then(case, buffers, source, fate)


def _now_and_then(
    case: Case, buffers: tuple[int, ...], source: int | None, fate: _Fate
) -> Iterator[Claim]:
    """Calls that are thrown away where others make a step: parts of a window, or all of one."""
    usual = max(fate.consumed.values())
    # Parts first: they are what an epoch leaves over.
    for reset, calls in sorted(fate.lost, key=lambda one: len(one[1]) >= usual):
        if not _is_finite_at(case, calls[-1], buffers[0]):
            continue
        yield Claim(
            f"{reset.by} throws away {len(calls)} backward call{'' if len(calls) == 1 else 's'} "
            f"that no step consumed; elsewhere {usual} make a step",
            reset.source,
            buffers,
            None,
            [Proof("not consumed", source), Proof("emptied", reset.source)],
            [reset.step],
            len(case.windows),
            "warning" if len(calls) < usual else "note",
        )


def _idle_steps(
    case: Case, buffers: tuple[int, ...], source: int | None, fate: _Fate
) -> Iterator[Claim]:
    """Every call of a line is thrown away before the step that should have consumed it."""
    for reset, calls, step in fate.idle:
        if not _is_finite_at(case, calls[-1], buffers[0]):
            continue
        yield Claim(
            f"{reset.by} throws away every backward call before the step, which consumes nothing: "
            "nothing is learnt",
            reset.source,
            buffers,
            None,
            [
                *_thrown_away(case, calls[-1], source, reset),
                Proof(f"{step.kind}.step finds nothing", step.source),
            ],
            [step.step],
            sum(s.optimizer == step.optimizer for s in case.trace.steps),
            remedy="empty the buffers after the step, or before the backward call",
        )


def _never_learnt(
    case: Case, buffers: tuple[int, ...], source: int | None, fate: _Fate
) -> Iterator[Claim]:
    """Every call that reaches these parameters is thrown away; the step has others' only."""
    for reset, calls, step in fate.unlearnt:
        windows = sum(s.optimizer == step.optimizer for s in case.trace.steps)
        if len(fate.unlearnt) < windows or not _is_finite_at(case, calls[-1], buffers[0]):
            continue
        yield Claim(
            f"{reset.by} throws away every backward call that reaches these parameters before the "
            "step, which consumes the last one only: they never learn",
            reset.source,
            buffers,
            None,
            [
                *_thrown_away(case, calls[-1], source, reset),
                Proof(f"{step.kind}.step", step.source),
            ],
            [step.step],
            windows,
            remedy="empty the buffers once, before the first backward() of the window",
        )


def _replaced(
    case: Case, buffers: tuple[int, ...], source: int | None, fate: _Fate
) -> Iterator[Claim]:
    """A loss that is thrown away in most windows, before another one is sent backward."""
    where = len({step.order for *_, step in fate.replaced})
    for reset, lost, kept, step in fate.replaced:
        windows = sum(s.optimizer == step.optimizer for s in case.trace.steps)
        severity = _lost_for(case, lost, kept, step, max(buffers, key=lambda b: _size(case, b)))
        if severity is None or where < min(windows, 2) or 2 * where < windows:
            continue  # once: a measurement between two phases
        yield Claim(
            f"{reset.by} throws away the backward call of this loss before every step, which "
            "consumes another one only: nothing is learnt from it",
            reset.source,
            buffers,
            None,
            [
                *_thrown_away(case, lost[-1], source, reset),
                Proof("the other loss", case.event_source(kept[-1])),
                Proof(f"consumed, {step.kind}", step.source),
            ],
            [step.step],
            windows,
            severity,
            "empty the buffers once, before the first backward() of the window",
        )


def _thrown_away(case: Case, call: int, source: int | None, reset: Reset) -> list[Proof]:
    return [
        Proof(f"call {case.numbers[call]}, not consumed", source),
        Proof("emptied", reset.source),
    ]


def _size(case: Case, buffer: int) -> int:
    return prod(case.trace.buffers[buffer].shape)


def _lost_for(
    case: Case, lost: list[int], kept: list[int], step: Step, buffer: int
) -> Severity | None:
    """How sure it is that a loss was lost by accident; None where it had its use."""
    first, last = case.call(lost[-1]), case.call(kept[-1])
    leaves = case.traits(first.call.layout).leaves
    if not all(case.trace.buffers[leaf].is_parameter for leaf in leaves):
        return None  # the gradient of an input was wanted
    if not _is_finite_at(case, lost[-1], buffer) or not _takes_it_as_it_is(
        case, last, step, buffer
    ):
        return None
    calls = [case.call(order).call for order in kept]
    again = [(call, node) for call in calls for node, order in call.again if order in lost]
    if again:
        is_part = any(counts_again(case, call, node) for call, node in again)
        return None if is_part else "warning"
    if _tail(case, first) != _tail(case, last):
        return "warning"
    return "note" if _items(case, lost) != _items(case, kept) else None


def _takes_it_as_it_is(case: Case, last: CallFacts, step: Step, buffer: int) -> bool:
    """Whether a step consumes what the last call left, or a multiple of it: nothing put by hand."""
    left = case.books.archive.reading(last.call, buffer, "after")
    taken = case.books.archive.reading(step, buffer, "consumed")
    return left is None or taken is None or ratio([left], taken) is not None


def _tail(case: Case, facts: CallFacts) -> list[str]:
    """The operations of a loss outside of the model."""
    return sorted(
        facts.node(node).name for node in facts.order if not case.is_in_network(facts, node)
    )


def _items(case: Case, calls: Sequence[int]) -> list[int]:
    return sorted(
        ended.strand.live for call in calls for ended in case.books.flow(call).sites.values()
    )


def _cut_windows(
    case: Case, buffers: tuple[int, ...], source: int | None, fate: _Fate
) -> Iterator[Claim]:
    """Windows of k calls of which only some are still there at the step.

    Each is divided by k, or the step is made in every k-th turn of the loop.
    """
    divided = {
        (lost, len(kept))
        for _, lost, kept, _ in fate.beside
        for share in _shares(case, buffers[0], kept)
        if is_same(share, Fraction(1, lost + len(kept)))
    }
    is_each = len(fate.beside) >= len(fate.consumed)
    for reset, lost, kept, step in fate.beside:
        made = lost + len(kept)
        is_divided = (lost, len(kept)) in divided
        guards = parted(case.trace, source, step.source)[1] if is_each else []
        if not is_divided and not says(guards, EVERY_SO_MANY):
            continue
        of = (
            f"each divided by {made}: the gradient is {len(kept)}/{made} of the mean"
            if is_divided
            else f"though only every {made}th is followed by a step"
        )
        yield Claim(
            f"{reset.by} throws away {lost} of the {made} backward calls before a step, {of}",
            reset.source,
            buffers,
            None,
            [
                Proof(f"{made} calls", source),
                Proof(f"emptied, {len(kept)} left", reset.source),
                Proof(f"{step.kind}.step", step.source),
            ],
            [step.step],
            sum(s.optimizer == step.optimizer for s in case.trace.steps),
            remedy="empty the buffers after the step only",
        )


def _shares(case: Case, buffer: int, calls: Sequence[int]) -> Iterator[Exact]:
    """What the items of the last of these calls weigh together, where it was looked into."""
    for account in case.accounts:
        rows = account.rows_of(calls[-1])
        if buffer in account.buffers and rows and all(is_known(row) for row in rows):
            yield call_total(rows, calls[-1])


def _consumes_nothing(case: Case, step: Step) -> bool:
    """Whether all buffers of a step are None or zero."""
    finds_nothing = case.books.archive.finds_nothing
    return all(finds_nothing(step, buffer, "consumed") for buffer in buffers_of(step))


def _is_finite_at(case: Case, call: int, buffer: int) -> bool:
    event = case.books.archive.by_order[call]
    assert isinstance(event, Call)
    after = case.books.archive.reading(event, buffer, "after")
    return after is None or after.measured is None or not after.measured.nonfinite


def _classes(case: Case) -> list[tuple[int, ...]]:
    """Buffers that the same events touch, by all that is known without measurements."""
    touched: dict[int, set[object]] = defaultdict(set)
    for number in {call.layout for call in case.trace.calls if call.accumulates}:
        for buffer in case.traits(number).leaves:
            touched[buffer].add(("call", number))
    for step in case.trace.steps:
        for buffer in buffers_of(step):
            touched[buffer].add(("step", step.optimizer))
    for reset in case.trace.resets:
        for buffer in reset.buffers:
            touched[buffer].add(("reset", reset.source, len(reset.buffers)))
    alike: dict[object, list[int]] = defaultdict(list)
    for buffer, events in touched.items():
        alike[frozenset(events)].append(buffer)
    ranked = sorted((tuple(sorted(members)) for members in alike.values()), key=len, reverse=True)
    return ranked[: max(1, MOST_FOLLOWED // (1 + len(case.trace.events)))]


def _fates(case: Case) -> dict[tuple[int, ...], dict[int | None, _Fate]]:
    """For each class of buffers and each line of a backward call: consumed or lost?"""
    found: dict[tuple[int, ...], dict[int | None, _Fate]] = {}
    held = {step.order: frozenset(buffers_of(step)) for step in case.trace.steps}
    closures = inside(case)
    for members in _classes(case):
        buffer, archive = members[0], case.books.archive
        fates: dict[int | None, _Fate] = defaultdict(_Fate)
        pending: list[Call] = []
        thrown: list[tuple[Reset, int | None, list[int]]] = []
        is_skipped = False
        at_work: int | None = None
        for event in case.trace.events:
            if isinstance(event, Step) and event.order in closures:
                pending, thrown, at_work = [], [], event.step  # what comes now is its own
            elif isinstance(event, Call) and event.step == at_work:
                continue
            elif isinstance(event, Call) and archive.writes(event, buffer):
                if not archive.has_reading(event, buffer, "before"):
                    pending = []  # emptied by hand: on purpose
                pending.append(event)
            elif isinstance(event, Step) and archive.has_reading(event, buffer, "consumed"):
                for call in pending:
                    fates[call.source].consumed[event.order] += 1
                _note_idle(case, event, pending, thrown, fates)
                if case.books.archive.finds_nothing(event, buffer, "consumed"):
                    _note_unlearnt(event, pending, thrown, fates)
                _note_beside(event, pending, thrown, fates)
                pending, thrown = [], []
            elif (
                isinstance(event, Step) and event.outcome == "done" and buffer in held[event.order]
            ):
                _note_idle(case, event, pending, thrown, fates)
                _note_unlearnt(event, pending, thrown, fates)
                thrown = []
            elif isinstance(event, Edit) and event.kind == "step_skipped":
                is_skipped = True
            elif isinstance(event, Reset) and buffer in event.buffers:
                for source in dict.fromkeys(call.source for call in pending):
                    calls = [call.order for call in pending if call.source == source]
                    if not is_skipped:
                        fates[source].lost.append((event, calls))
                        thrown.append((event, source, calls))
                pending, is_skipped = [], False
        found[members] = fates
    return found


def _note_idle(
    case: Case,
    step: Step,
    pending: Sequence[Call],
    thrown: Sequence[tuple[Reset, int | None, list[int]]],
    fates: dict[int | None, _Fate],
) -> None:
    """Of what was thrown away since the step before, keep that this step has nothing else."""
    if not pending and thrown and _consumes_nothing(case, step):
        for reset, source, calls in thrown:
            fates[source].idle.append((reset, calls, step))


def _note_unlearnt(
    step: Step,
    pending: Sequence[Call],
    thrown: Sequence[tuple[Reset, int | None, list[int]]],
    fates: dict[int | None, _Fate],
) -> None:
    """Keep what was thrown away before a step that has nothing else for this buffer."""
    if not pending and thrown:
        reset, source, calls = thrown[-1]
        fates[source].unlearnt.append((reset, calls, step))


def _note_beside(
    step: Step,
    pending: Sequence[Call],
    thrown: Sequence[tuple[Reset, int | None, list[int]]],
    fates: dict[int | None, _Fate],
) -> None:
    """Keep what was thrown away of the lines that this step consumes, and of all others."""
    lines = {call.source for call in pending}
    for reset, line, calls in thrown if pending else ():
        if line not in lines:
            kept = [call.order for call in pending]
            fates[line].replaced.append((reset, calls, kept, step))
    for source in dict.fromkeys(call.source for call in pending):
        lost = [(reset, calls) for reset, line, calls in thrown if line == source]
        if lost:
            kept = [call.order for call in pending if call.source == source]
            count = sum(len(calls) for _, calls in lost)
            fates[source].beside.append((lost[0][0], count, kept, step))


@check(
    "stepped-twice",
    severity="warning",
    section="Precision, clipping, hooks, optimizer",
    remedy="let one optimizer step the parameter, once per window",
    reference="one parameter in two optimizers; scaler.step() beside optimizer.step()",
)
def stepped_twice(case: Case) -> Iterator[Claim]:
    """The same gradient moves a parameter twice.

    It is in two optimizers, or twice in the list that one was given, or `optimizer.step()` is
    called beside `scaler.step(optimizer)`.

    Evidence: a group that holds a parameter twice. Or two steps consume a buffer, and nothing was
    added to it or taken out in between: what they find is the same, or a multiple (of a single
    number only the same).

    Silent: for an optimizer that calls another one inside its own step, and for steps with a
    closure.
    """
    yield from _held_twice(case)
    archive = case.books.archive
    for members in _classes(case):
        buffer = max(members, key=lambda b: prod(case.trace.buffers[b].shape))
        last: Step | None = None
        for event in case.trace.events:
            if isinstance(event, Reset):
                last = None if buffer in event.buffers else last
            elif isinstance(event, Call) and archive.writes(event, buffer):
                last = None
            elif isinstance(event, Step) and archive.has_reading(event, buffer, "consumed"):
                if (
                    last is not None
                    and last.step != event.step
                    and _is_same(case, buffer, last, event)
                ):
                    yield _stepped_twice(case, last, event, members)
                last = event


def _held_twice(case: Case) -> Iterator[Claim]:
    """Parameters that an optimizer was given twice."""
    for kind in case.looked:
        step = kind.first.step
        twice = [buffer for buffer, count in Counter(buffers_of(step)).items() if count > 1]
        if twice:
            count = f"{len(twice)} parameter{'s' if twice[1:] else ''}"
            yield Claim(
                f"{step.kind} was given {count} twice, and moves each of them twice with one "
                "gradient",
                step.source,
                twice,
                Fraction(2),
                [Proof(f"{step.kind}.step", step.source)],
                kind.steps,
                sum(s.optimizer == step.optimizer for s in case.trace.steps),
                remedy="give each parameter once: take out what is shared",
            )


def _is_same(case: Case, buffer: int, first: Step, second: Step) -> bool:
    """Whether two steps found the same in a buffer, or a multiple: nobody put a new one there."""
    found = [case.books.archive.reading(step, buffer, "consumed") for step in (first, second)]
    measured = [t.measured for t in found if t is not None and t.measured is not None]
    if len(measured) < 2 or found[1] is None:
        return False
    factor = proportion(measured[:1], measured[1], rounding(found[1].form.dtype))
    return factor == ONE or (factor is not None and measured[1].elements > 1)


def _stepped_twice(case: Case, first: Step, second: Step, buffers: tuple[int, ...]) -> Claim:
    who = "the same optimizer" if first.optimizer == second.optimizer else "two optimizers"
    return Claim(
        f"stepped twice with one gradient, by {who}: {first.kind} and then {second.kind}",
        second.source,
        buffers,
        Fraction(2),
        [Proof(f"{first.kind}.step", first.source), Proof(f"{second.kind}.step", second.source)],
        [second.step],
        sum(s.optimizer == second.optimizer for s in case.trace.steps),
    )
