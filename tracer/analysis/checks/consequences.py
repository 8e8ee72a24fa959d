"""Checks of what a constant factor does next: to the optimizer, and to weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.decay import added_decay
from tracer.analysis.checks.finding import Claim, Finding, Proof
from tracer.analysis.checks.registry import check
from tracer.analysis.exact import is_same, said

SECTION = "Precision, clipping, hooks, optimizer"
AGAINST_THE_MEAN = (
    "sum-reduction", "double-division", "accumulation-not-divided", "double-backward-same-graph",
    "replica-losses-summed",
)  # fmt: skip
"""Findings whose factor is that of the gradient against the mean over all items."""


def _factors(case: Case) -> Iterator[tuple[Finding, Account]]:
    """Each constant factor that was found, with books of an optimizer that it reaches."""
    for finding in case.found:
        factor = finding.factor
        if factor is None or finding.check not in AGAINST_THE_MEAN or is_same(factor, Fraction(1)):
            continue
        names = set(finding.parameters)
        for account in case.accounts:
            if account.optimizer is not None and {case.name(b) for b in account.buffers} & names:
                yield finding, account
                break


@check(
    "adam-hides-factor",
    severity="note",
    section=SECTION,
    remedy="nothing to gain from the learning rate; look at eps and weight decay",
)
def adam_hides_factor(case: Case) -> Iterator[Claim]:
    """An optimizer that divides by the size of the gradient cancels the constant factor beside
    this.

    The step is the same with and without it, but for eps and for weight decay that is added to the
    gradient. Clipping by norm comes before and does see the factor.

    Evidence: a finding with a constant factor, and Adam or one of its kin.

    Silent: without such a finding, for SGD, and where a clip by norm comes before.
    """
    for finding, account in _factors(case):
        optimizer = account.optimizer
        is_clipped = account.owner in case.clipped
        if optimizer is not None and optimizer.is_adaptive and not is_clipped:
            eps = optimizer.options.get("eps")
            besides = f", but for eps {eps:g}" if isinstance(eps, float) else ""
            yield Claim(
                f"{optimizer.kind} cancels the factor {said(finding.factor)} of "
                f"{finding.check}{besides}",
                account.ledger.step.source if account.ledger.step else None,
                account.buffers,
                None,
                [Proof(finding.message, None, finding.factor)],
                [],
                0,
            )


@check(
    "decay-ratio",
    severity="note",
    section=SECTION,
    remedy="scale the weight decay with the gradient, or use a decoupled one (AdamW)",
    reference="darknet multiplies the decay by the batch size for this reason",
)
def decay_ratio(case: Case) -> Iterator[Claim]:
    """The gradient has a constant factor, weight decay has not: their ratio changed.

    A learning rate that makes up for the factor makes the decay as many times weaker or stronger.

    Evidence: a finding with a constant factor, and an optimizer that adds weight decay to the
    gradient.

    Silent: without such a finding, without weight decay, and where the decay is decoupled.
    """
    for finding, account in _factors(case):
        optimizer = account.optimizer
        decay = 0.0 if optimizer is None else added_decay(optimizer)
        if decay and finding.factor is not None:
            yield Claim(
                f"weight decay {decay:g} is not multiplied by the {said(finding.factor)} of "
                f"{finding.check}: against the gradient it is {said(1 / finding.factor)} of "
                "what it was",
                account.ledger.step.source if account.ledger.step else None,
                account.buffers,
                1 / finding.factor,
                [Proof(finding.message, None, finding.factor)],
                [],
                0,
            )
