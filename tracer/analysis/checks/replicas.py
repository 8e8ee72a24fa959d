"""Checks of DataParallel: what the losses of the replicas come to together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.weights import is_known, shared_clip, terms_of
from tracer.analysis.exact import is_same, said, total
from tracer.analysis.ledger import Row
from tracer.semantics.effects import Exact

SECTION = "Data parallel"
ONE = Fraction(1)


def _by_replica(case: Case) -> Iterator[tuple[Account, list[Row]]]:
    """The rows of one call that replicas reduced, each for itself."""
    for account in case.accounts:
        if account.ledger.replicas < 2:
            continue
        for rows in terms_of(account):
            for call in dict.fromkeys(row.call for row in rows):
                own = [row for row in rows if row.call == call and row.replica is not None]
                ends = {row.reductions[-1].node for row in own if row.reductions}
                replicas = {row.replica for row in own}
                if len(replicas) > 1 and len(ends) > 1 and all(is_known(row) for row in own):
                    yield account, own


def _line(rows: Sequence[Row]) -> int | None:
    """Where the losses of the replicas were put together, or else where each was reduced."""
    for reduction in rows[0].reductions:
        if reduction.over == len(rows):
            return reduction.source
    return rows[0].reductions[-1].source


@check(
    "replica-losses-summed",
    severity="warning",
    section=SECTION,
    remedy="average what the replicas return: `loss.mean().backward()`",
    reference="nyu-mll/jiant#989",
)
def replica_losses_summed(case: Case) -> Iterator[Claim]:
    """DataParallel returns one loss per replica, each a mean, and the script adds them.

    The gradient is as many times the mean as there are replicas: it changes with the machine.

    Evidence: as many reductions before the gather as replicas, the items of each with weights that
    come to 1, or to 1/k where k calls of a window are each divided by k and the script takes a sum.

    Silent: when they are averaged, when the loss is taken after the gather, and for sums.
    """
    for account, rows in _by_replica(case):
        if _is_sum(rows):
            continue
        count = len({row.replica for row in rows})
        totals = [_unclipped_total(row) for row in rows]
        calls = len({row.call for row in account.rows if row.term == rows[0].term})
        is_shared_out = calls not in (1, count) and _are_added(rows, count)
        wholes = (ONE, Fraction(1, calls)) if is_shared_out else (ONE,)
        if not any(all(is_same(one, whole) for one in totals) for whole in wholes):
            continue
        optimizer = account.optimizer
        is_hidden = optimizer is not None and optimizer.is_adaptive
        severity: Severity = "note" if is_hidden else "warning"
        yield Claim(
            f"the losses of {count} replicas, each a mean, are added: the gradient is {count} x "
            "the mean",
            _line(rows),
            account.buffers,
            Fraction(count),
            [
                Proof(f"replica {row.replica}: {row.items} items", row.reductions[-1].source,
                      row.weight) for row in rows
            ],
            account.steps,
            case.looked_at(account),
            severity,
        )  # fmt: skip


def _unclipped_total(row: Row) -> Exact:
    clip, whole = shared_clip(row), row.total or Fraction(0)
    return whole / clip if clip else whole


def _are_added(rows: Sequence[Row], replicas: int) -> bool:
    """Whether the script sums over what the replicas returned."""
    return all(
        any(r.kind == "sum" and r.over == replicas for r in row.reductions[:-1]) for row in rows
    )


def _is_sum(rows: Sequence[Row]) -> bool:
    return all(reduction.kind == "sum" for row in rows for reduction in row.reductions)


@check(
    "replica-unused",
    severity="note",
    section=SECTION,
    remedy="use a larger batch, or fewer devices",
)
def replica_unused(case: Case) -> Iterator[Claim]:
    """A batch has fewer chunks than DataParallel has devices, and some of them do nothing.

    Three samples on four GPUs are three chunks of one; nine on eight are five chunks.

    Evidence: fewer copies of the model sent a gradient than the wrapper has devices.

    Silent: when every device has a chunk.
    """
    wrappers = {m.devices for m in case.trace.modules.values() if m.devices}
    devices = wrappers.pop() if len(wrappers) == 1 else 0
    for account in case.accounts:
        used = account.ledger.replicas
        calls = case.calls_of(account)
        if used < devices and calls and account.steps:
            yield Claim(
                f"{used} of {devices} devices had a chunk of the batch",
                calls[0].source,
                account.buffers,
                None,
                [Proof(f"copies of the model in the gradient: {used}", calls[0].source)],
                account.steps,
                case.looked_at(account),
            )


@check(
    "ragged-replicas",
    severity="warning",
    section=SECTION,
    remedy="take the loss after the gather, or choose a batch that the number of replicas divides",
    reference="huggingface/transformers#608",
)
def ragged_replicas(case: Case) -> Iterator[Claim]:
    """Each replica averages over its own chunk of the batch, and the chunks are not equal.

    Ten images on four GPUs are 3, 3, 3 and 1: the single one weighs three times as much.

    Evidence: the items of the replicas' reductions differ, and those of each replica have the same
    weight together.

    Silent: for equal chunks, and when the loss is taken after the gather. A note where most windows
    have equal chunks: the last batch of an epoch.
    """
    found = [(account, rows) for account, rows in _by_replica(case) if not _is_sum(rows)]
    even = sum(len(account.steps) for account, rows in found if len({r.items for r in rows}) == 1)
    ragged = [(account, rows) for account, rows in found if len({r.items for r in rows}) > 1]
    windows = sum(len(account.steps) for account, _ in ragged)
    severity: Severity = "note" if 0 < windows <= even else "warning"
    for account, rows in ragged:
        totals = [row.total for row in rows if row.total is not None]
        if not all(is_same(totals[0], one) for one in totals):
            continue
        counts = [row.items for row in rows]
        ratio = Fraction(max(counts), min(counts))
        whole = total(totals)
        yield Claim(
            f"a mean of the means of {len(rows)} replicas with chunks of {_sizes(rows)}: an item "
            f"weighs up to {said(ratio)} x another",
            _line(rows),
            account.buffers,
            ratio,
            [
                *(Proof(f"replica {row.replica}: {row.items} items", row.reductions[-1].source,
                        row.weight) for row in rows),
                Proof("all items together", _line(rows), whole),
            ],
            account.steps,
            case.looked_at(account),
            severity,
        )  # fmt: skip


def _sizes(rows: Sequence[Row]) -> str:
    """4, 3 samples; 8, 6 items where samples are not known, or some items are left out."""
    samples = [row.samples.count for row in rows if row.samples is not None and not row.masked]
    known = len(samples) == len(rows)
    counts = samples if known else [row.items for row in rows]
    return f"{', '.join(map(str, counts))} {'samples' if known else 'items'}"
