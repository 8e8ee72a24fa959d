"""What has to be said beside the answer: what the optimizer does with it, and what came between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tracer.analysis.exact import said, tidy
from tracer.analysis.ledger import Ledger, steps_of
from tracer.analysis.strand import Factor
from tracer.events import Edit, Step
from tracer.tracefile import Trace

__all__ = ["Note", "Optimizer", "notes_of", "optimizer_of", "run_notes"]

ADAPTIVE = (
    "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "Adagrad", "Adadelta", "RMSprop",
    "Adafactor", "Rprop", "Muon", "Lion",
)  # fmt: skip
"""Optimizers that divide by the gradient's own size, or take its sign only."""

DECOUPLED = ("AdamW", "Adafactor", "Muon", "Lion")
"""Adaptive optimizers whose weight decay acts on the weight, past the gradient."""

MOST_RATES = 4
MOST_STEPS = 10_000
"""Steps that are searched for what is not finite: a second or two, and most runs have fewer."""


@dataclass(frozen=True)
class Note:
    """A sentence beside an answer; `kind` is a slug, `source` the line that it speaks of."""

    kind: str
    words: str
    source: int | None = None


@dataclass(frozen=True)
class Optimizer:
    """How a step turns a gradient into an update, as far as plain options say.

    `lr` is None where there is no such number; of a parameter in several groups of a linear
    optimizer it is that of all together, and `lrs` has each. `is_adaptive`: a constant factor
    cancels. `is_linear`: the update is a multiple of the gradient.
    """

    kind: str
    lr: float | None
    options: dict[str, Any]
    is_adaptive: bool
    is_linear: bool
    lrs: tuple[float, ...] = ()

    @property
    def l2_decay(self) -> float:
        """Weight decay that is added to the gradient; 0 where there is none, or it acts past it."""
        decay = self.options.get("weight_decay")
        is_past = self.kind in DECOUPLED or bool(self.options.get("decoupled_weight_decay"))
        return 0.0 if is_past or not isinstance(decay, int | float) else float(decay)

    @property
    def exceptions(self) -> tuple[str, ...]:
        """What of an adaptive optimizer a constant factor does not cancel in."""
        eps = ("eps",) if isinstance(self.options.get("eps"), int | float) else ()
        return (*eps, "its L2 decay") if self.l2_decay else eps


def optimizer_of(ledger: Ledger) -> Optimizer | None:
    """The options of the groups that hold the buffer."""
    if ledger.step is None:
        return None
    groups = [g for g in ledger.step.groups if ledger.buffer in g.get("buffers", ())]
    options = (
        {key: value for key, value in groups[0].items() if key not in ("buffers", "frozen")}
        if groups
        else {}
    )
    lrs = tuple(lr for group in groups if (lr := _rate(group)) is not None)
    kind = ledger.step.kind
    is_adaptive = kind in ADAPTIVE or "Adam" in kind
    is_linear = kind in ("SGD", "ASGD")
    lr = None if not lrs else (sum(lrs) if is_linear else lrs[0])
    return Optimizer(kind, lr, options, is_adaptive, is_linear, lrs)


def _rate(group: dict[str, Any]) -> float | None:
    lr = group.get("lr")
    return float(lr) if isinstance(lr, int | float) else None


def notes_of(ledger: Ledger, optimizer: Optimizer | None, trace: Trace) -> tuple[Note, ...]:
    """Everything beside the answer for one buffer, what changes its meaning first."""
    found = [*_of_functions(ledger), *_of_precision(ledger), *_of_uses(ledger, trace)]
    if optimizer is not None and ledger.step is not None:
        found += _of_groups(optimizer)
        found += _of_optimizer(optimizer, ledger)
        found += _of_rates(ledger, ledger.step, trace)
        found += _of_window(ledger.step, trace)
    return tuple(found)


def run_notes(trace: Trace) -> tuple[Note, ...]:
    """What happened in the run beside any parameter's own story."""
    skipped = [edit for edit in trace.edits if edit.kind == "step_skipped"]
    bad = [step for step in trace.steps[:MOST_STEPS] if _is_nonfinite(step, trace)]
    found = [_of_skips(skipped, trace)] if skipped else []
    return (*found, _of_nonfinite(bad)) if bad else tuple(found)


def _is_nonfinite(step: Step, trace: Trace) -> bool:
    """Whether it consumed what is not finite; the weights it found may not have been, either."""
    if step.outcome != "done" or not trace.nonfinite(step):
        return False
    rows = trace.measurements(step)
    readings = [r for r in trace.layout(step.layout).readings if r.moment == "consumed"]
    return any(rows[r.row].nonfinite for r in readings if r.row is not None)


def _of_nonfinite(steps: list[Step]) -> Note:
    first = steps[0]
    which = f"Step {first.step} ({first.kind})"
    if len(steps) > 1:
        which = f"{len(steps)} steps, the first is {first.step} ({first.kind}),"
    return Note("not-finite", f"{which} consumed gradients that are not finite.", first.source)


def _of_functions(ledger: Ledger) -> Iterator[Note]:
    told: dict[str, Note] = {}
    for row in ledger.rows:
        for factor in row.after:
            if factor.kind in ("function", "opaque"):
                words = _function(factor)
                told[words] = Note(factor.kind, words, factor.source)
    yield from told.values()


def _function(factor: Factor) -> str:
    value = said(factor.value)
    if factor.kind == "function":
        return (
            f"{factor.words} is an autograd.Function that multiplies the gradient by {value} "
            "(measured). It is counted, as if its forward passed its input on unchanged."
        )
    return (
        f"The gradient passes {factor.words}, which multiplies it by {value} (measured). It is not "
        "counted: that may be the derivative of its forward."
    )


def _of_precision(ledger: Ledger) -> Iterator[Note]:
    if any(factor.is_rough for row in ledger.rows for factor in (*row.loss, *row.after)):
        yield Note(
            "rough", 'A factor that was measured in half precision is known to two digits: "about".'
        )


def _of_uses(ledger: Ledger, trace: Trace) -> Iterator[Note]:
    """Other steps that took the same gradient, and a step from inside the backward call."""
    by_order = {step.order: step for step in trace.steps}
    earlier = list(dict.fromkeys(n for e in ledger.history.entries for n in e.consumed))
    own = ledger.step.order if ledger.step is not None else None
    before = [by_order[n] for n in earlier if n != own and n in by_order]
    if before:
        is_all = all(entry.consumed[:-1] for entry in ledger.history.entries)
        words = f"{'All' if is_all else 'Part'} of it was used before, by {_steps(before)}: "
        yield Note("used-before", f"{words}it was not emptied since.", before[-1].source)
    after = [by_order[n] for n in ledger.history.again]
    if after:
        yield Note(
            "used-again", f"The same gradient is used again by {_steps(after)}, before it is "
            "emptied.", after[0].source,
        )  # fmt: skip
    if ledger.history.inside is not None and ledger.step is not None:
        words = f"{ledger.step.kind} took it while the backward call was still at work."
        yield Note("inside", words, ledger.step.source)


def _steps(steps: Iterable[Step]) -> str:
    """step 2 (SGD, lr 0.5)"""
    shown = list(steps)
    told = []
    for step in shown[:MOST_RATES]:
        rates = {rate for group in step.groups if (rate := _rate(group)) is not None}
        lr = f", lr {_number(rates.pop())}" if len(rates) == 1 else ""
        told.append(f"step {step.step} ({step.kind}{lr})")
    more = f" and {len(shown) - MOST_RATES} more" if len(shown) > MOST_RATES else ""
    return ", ".join(told) + more


def _of_groups(optimizer: Optimizer) -> Iterator[Note]:
    if len(optimizer.lrs) > 1:
        rates = " + ".join(map(_number, optimizer.lrs))
        total = f" = {_number(sum(optimizer.lrs))}" if optimizer.is_linear else ""
        yield Note(
            "several-groups",
            f"It is in {len(optimizer.lrs)} groups of {optimizer.kind}, which moves it once for "
            f"each: lr {rates}{total}.",
        )


def _of_optimizer(optimizer: Optimizer, ledger: Ledger) -> Iterator[Note]:
    options = optimizer.options
    if options.get("maximize"):
        yield Note("maximize", f"{optimizer.kind} maximizes: it steps along the gradient.")
    if optimizer.is_adaptive:
        but = f", except in {' and in '.join(optimizer.exceptions)}" * bool(optimizer.exceptions)
        yield Note(
            "adaptive",
            f"{optimizer.kind} divides by the size of the gradient: a constant factor cancels"
            f"{but}; unequal weights do not.",
        )
    if optimizer.is_linear:
        yield from _of_momentum(options)
        yield from _of_decay(options)
    calls = {entry.call for entry in ledger.history.entries}
    if ledger.history.evaluations == 1 and len(calls) > 1:
        words = f"{optimizer.kind}'s closure made {len(calls)} backward calls"
        yield Note("closure", f"{words}, and nobody emptied the buffers between them.")
    elif ledger.history.evaluations:
        count = ledger.history.evaluations
        times = "once" if count == 1 else f"{count} times"
        first = "" if count == 1 else "; this is the first evaluation"
        yield Note("closure", f"{optimizer.kind} called its closure {times}{first}.")


def _of_momentum(options: dict[str, Any]) -> Iterator[Note]:
    """The sum of what one gradient moves over all later steps, in units of lr."""
    momentum, dampening = options.get("momentum"), options.get("dampening") or 0
    if not momentum or not 0 < momentum < 1:
        return
    whole = (1 - dampening) / (1 - momentum)
    words = f"Momentum {_number(momentum)}"
    if options.get("nesterov"):
        words += f" (nesterov) takes {_number(1 + momentum)} times that at once, and in all later "
        words += f"steps together up to {_number(whole)} times."
    elif dampening:
        words += f" with dampening {_number(dampening)} adds that up to {_number(whole)} times."
    else:
        words += f" adds that up to {_number(whole)} times."
    yield Note("momentum", words)


def _of_decay(options: dict[str, Any]) -> Iterator[Note]:
    decay = options.get("weight_decay")
    if decay:
        yield Note(
            "weight-decay",
            f"Weight decay {_number(decay)} adds {_number(decay)} x the weight itself, whatever "
            "multiplies the gradient.",
        )


def _of_rates(ledger: Ledger, step: Step, trace: Trace) -> Iterator[Note]:
    """A learning rate that changes from step to step."""
    found: list[tuple[int, float]] = []
    held = [n for n, group in enumerate(step.groups) if ledger.buffer in group.get("buffers", ())]
    for other in steps_of(trace, ledger.buffer):
        if other.optimizer != step.optimizer or not held or held[0] >= len(other.groups):
            continue
        rate = _rate(other.groups[held[0]])
        if rate is not None and (not found or found[-1][1] != rate):
            found.append((other.step, rate))
    if len(found) > 1:
        shown = found if len(found) <= MOST_RATES else [*found[: MOST_RATES - 1], found[-1]]
        told = [f"{_number(rate)} from step {number}" for number, rate in shown]
        if len(found) > MOST_RATES:
            told.insert(MOST_RATES - 1, "...")
        yield Note("lr-changes", f"The lr changes between steps: {', '.join(told)}.")


def _of_window(step: Step, trace: Trace) -> Iterator[Note]:
    """What a GradScaler decided since the last step."""
    skipped = [
        edit
        for edit in trace.edits
        if edit.kind == "step_skipped" and edit.step == step.step and edit.order < step.order
    ]
    if skipped:
        yield _of_skips(skipped, trace)


def _of_skips(skipped: list[Edit], trace: Trace) -> Note:
    kinds = ", ".join(sorted({str(edit.details.get("optimizer", "?")) for edit in skipped}))
    count = "a step" if len(skipped) == 1 else f"{len(skipped)} steps"
    words = f"GradScaler skipped {count} of {kinds}"
    calls = [n for edit in skipped if (n := _call_before(edit, trace)) is not None]
    if calls:
        shown = ", ".join(map(str, calls[:MOST_RATES])) + (" ..." if calls[MOST_RATES:] else "")
        words += f" (after backward call {shown})"
    words += ": gradients were not finite"
    updates = [e for e in trace.edits if e.kind == "scale_update" and e.order > skipped[-1].order]
    if updates and len(skipped) == 1:
        before, after = updates[0].details.get("before"), updates[0].details.get("after")
        if before and after and before != after:
            words += f"; the loss scale went from {said(tidy(before))} to {said(tidy(after))}"
    return Note("step-skipped", f"{words}.", skipped[-1].source)


def _call_before(edit: Edit, trace: Trace) -> int | None:
    """The number of the backward call before an edit."""
    numbers = [n for n, call in enumerate(trace.calls, start=1) if call.order < edit.order]
    return numbers[-1] if numbers else None


def _number(value: float) -> str:
    return f"{value:.4g}"
