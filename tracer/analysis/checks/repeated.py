"""Checks of repeated backward calls: what adds up in a buffer until a step consumes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import repeat

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.closures import evaluations
from tracer.analysis.checks.decay import added_decay
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.program import (
    ACCUMULATION,
    EVERY_SO_MANY,
    LOOP_OVER_UNITS,
    PARTS_OF_A_BATCH,
    UNITS,
    parted,
    says,
)
from tracer.analysis.checks.reduction import carries_division
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.weights import call_total, is_known, size, terms_of
from tracer.analysis.exact import is_same, product, said, total
from tracer.analysis.history import Entry
from tracer.analysis.ledger import Row
from tracer.events import Call

SECTION = "Repeated backward calls"
ONE = Fraction(1)


# Sums and means of calls.


@dataclass(frozen=True)
class _Stream:
    """The calls of one line in one window, and the rows of their losses."""

    account: Account
    calls: list[Call]
    rows: list[Row]
    from_loader: bool

    @property
    def counts(self) -> list[int]:
        """The items of each call."""
        return [sum(r.items for r in self.rows if r.call == c.order) for c in self.calls]


def _streams(case: Case) -> Iterator[_Stream]:
    """Every line that filled a buffer several times in a window, per loss."""
    again = evaluations(case)
    for account in case.accounts:
        step = account.ledger.step
        if not account.steps or (step is not None and step.order in again):
            continue
        for calls in case.streams(account):
            orders = {call.order for call in calls}
            for rows in terms_of(account):
                own = [row for row in rows if row.call in orders]
                if len(calls) > 1 and own and all(is_known(row) for row in own):
                    yield _Stream(account, calls, own, case.batches_drawn(calls))


@check(
    "accumulation-not-divided",
    severity="warning",
    section=SECTION,
    remedy="divide the loss by the number of calls per step",
    reference="axolotl#2262, huggingface/transformers#35438",
)
def accumulation_not_divided(case: Case) -> Iterator[Claim]:
    """Several backward calls, each of a mean, are added before the step, and nobody divides by k.

    The gradient is k times the mean over all items of the window. Plain SGD takes steps k times as
    long; Adam hides it.

    Evidence: k calls of one line in the window, and the items of each call have weights that
    come to 1, or would if each were not divided by a number of its own beside (CTC divides by the
    lengths; a note). A warning if each call had a batch of its own from one `DataLoader`, if the
    step is made in every k-th turn of a loop (`if i % k == 0`), or the lines speak of accumulating,
    of micro-batches or of `x.chunk(k)`; and the optimizer does not cancel the factor. Adam does, if
    nothing before it sees the size of the gradient, as a clip by norm and a weight decay that is
    added to it do. Without these signs (several losses, chunks of a sequence), and where the lines
    speak of tasks, episodes and the like, the sum may be meant, and it is a note.

    Or one loss of k calls is divided by k, and another that is added to it in the same calls is
    not (an auxiliary loss; a note).

    Silent: when the loss or the gradient is divided by k, and for a loss that is a sum anyhow; for
    an auxiliary loss whose weight is a round number divided by k. Calls of different numbers of
    items are told by mean-of-means.
    """
    yield from _partly_divided(case)
    for stream in _streams(case):
        account, rows, count = stream.account, stream.rows, len(stream.calls)
        is_even = all(is_same(call_total(rows, c.order), ONE) for c in stream.calls)
        if not is_even and not all(_is_mean_of_quotients(rows, c.order) for c in stream.calls):
            continue
        if _is_sum(rows) or any(r.items > 1 and not r.reductions for r in rows):
            continue
        if len(set(stream.counts)) > 1 or _is_one_graph(stream):
            continue  # mean-of-means and double-backward-same-graph tell it
        if any(is_same(f.value, Fraction(1, count)) and f.kind != "reduction"
               for r in rows for f in (*r.loss, *r.after)):  # fmt: skip
            continue
        if any(_sent_again(case, account)):
            continue  # the same losses, and not the sum of several
        is_sure = is_even and _is_of_parts(case, stream) and _sees_factor(case, account)
        severity: Severity = "warning" if is_sure else "note"
        is_plain = is_even and all(r.reductions[-1].kind != "weighted-mean" for r in rows)
        whole = f"the mean over the {sum(stream.counts):,} items of the window"
        yield Claim(
            f"{count} backward calls, each of a mean, are added and not divided: the gradient is "
            f"{count} x {whole if is_plain else 'the mean of what they give'}",
            stream.calls[0].source,
            account.buffers,
            Fraction(count),
            [
                Proof("each call is a mean", _loss_line(rows[0])),
                Proof(f"{count} calls before the step", stream.calls[0].source, Fraction(count)),
                Proof("the step", account.ledger.step.source if account.ledger.step else None),
            ],
            account.steps,
            case.looked_at(account),
            severity,
            f"divide the loss by {count} before backward()",
        )


def _partly_divided(case: Case) -> Iterator[Claim]:
    """Calls of several losses, of which some are divided by the number of calls."""
    again = evaluations(case)
    for account in case.accounts:
        step = account.ledger.step
        if not account.steps or (step is not None and step.order in again):
            continue
        every = [row for rows in terms_of(account) for row in rows]
        for calls in case.streams(account):
            count, orders = len(calls), {call.order for call in calls}
            share = Fraction(1, count)
            rows = [row for row in every if row.call in orders]
            bare = [row for row in rows if not _has_factor(row, share)]
            divided = [row for row in rows if _is_divided(case, row, share)]
            if count < 2 or not all(map(is_known, rows)) or any(map(_carries, bare, repeat(count))):
                continue
            if not all({row.call for row in some} == orders for some in (bare, divided)):
                continue
            yield Claim(
                f"of the losses of {count} backward calls one is divided by {count} and another is "
                f"not: this one adds up to {count} x its weight beside the other",
                _loss_line(bare[0]),
                account.buffers,
                None,
                [
                    Proof("divided: its items come to", _loss_line(divided[0]), divided[0].total),
                    Proof("not divided: its items come to", _loss_line(bare[0]), bare[0].total),
                    Proof(f"{count} calls before the step", calls[0].source),
                ],
                account.steps,
                case.looked_at(account),
                "note",
                f"divide this loss by {count} too, unless its weight has that in it",
            )


def _has_factor(row: Row, share: Fraction) -> bool:
    """Whether something but a reduction multiplies a row by this."""
    factors = (*row.loss, *row.after)
    return any(is_same(f.value, share) for f in factors if f.kind != "reduction")


def _is_divided(case: Case, row: Row, share: Fraction) -> bool:
    """Whether the items of a row come to one over the calls, because a line divides by them."""
    lines = [f.source for f in row.loss if f.kind == "scale" and is_same(f.value, share)]
    is_said = any("/" in case.text(line) or "div" in case.text(line) for line in lines)
    return is_said and row.total is not None and is_same(size(row.total), share)


def _carries(row: Row, count: int) -> bool:
    """Whether a number that a loss is multiplied by is a round one divided by the calls."""
    scales = [f.value for f in row.loss if f.kind == "scale" and f.value is not None]
    return any(carries_division(abs(float(value)), count) for value in scales if value)


def _is_mean_of_quotients(rows: Sequence[Row], call: int) -> bool:
    """Whether a call is the mean of items that were each divided by a number of their own.

    Such a number (the length of a sequence, as CTC does) says nothing of how calls are put
    together: all else must come to a mean.
    """
    own = [row for row in rows if row.call == call]
    if not own or not all(row.is_uneven and row.reductions for row in own):
        return False
    plain = [product(f.value for f in (*row.loss, *row.after) if f.kind != "own") for row in own]
    weights = [w * row.items for w, row in zip(plain, own, strict=True) if w is not None]
    return len(weights) == len(own) and is_same(total(weights), ONE)


def _is_one_graph(stream: _Stream) -> bool:
    """Whether the calls are one loss that is sent backward several times."""
    orders = {call.order for call in stream.calls}
    return all(any(order in orders for _, order in call.again) for call in stream.calls[1:])


def _is_of_parts(case: Case, stream: _Stream) -> bool:
    """Whether something says that the calls of a window are parts of one batch.

    Each had a batch of its own from a loader; or the script speaks of micro-batches, or makes the
    step in every k-th turn of the loop. Not where it speaks of tasks, episodes and the like.
    """
    texts, guards = _said_of(case, stream)
    if says(texts, UNITS) or says(texts, LOOP_OVER_UNITS):
        return False
    is_said = says(texts, ACCUMULATION) or says(texts, PARTS_OF_A_BATCH)
    return stream.from_loader or is_said or says(guards, EVERY_SO_MANY)


def _said_of(case: Case, stream: _Stream) -> tuple[list[str], list[str]]:
    """The words at the calls, their loss and the step, where these part; those of the step."""
    step = stream.account.ledger.step
    call = stream.calls[0].source
    here, there = parted(case.trace, call, None if step is None else step.source)
    loss = case.text(_loss_line(stream.rows[0])).strip()
    return [loss, *here, *there], there


def _sees_factor(case: Case, account: Account) -> bool:
    """Whether a factor of the gradient changes the steps of an optimizer."""
    own = [a for a in case.accounts if a.kind is account.kind and a.owner == account.owner]
    return account.owner in case.clipped or any(_is_seen(one) for one in own)


def _is_seen(account: Account) -> bool:
    optimizer = account.optimizer
    if optimizer is None:
        return False
    if not optimizer.is_adaptive:
        return True
    return added_decay(optimizer) > 0


def _is_sum(rows: Sequence[Row]) -> bool:
    """Whether items are only added up; a sum that is divided by their number is a mean."""
    return all(r.reductions and is_same(r.weight, ONE) for r in rows) and all(
        reduction.kind == "sum" for r in rows for reduction in r.reductions
    )


def _loss_line(row: Row) -> int | None:
    return row.reductions[-1].source if row.reductions else row.term.source


@check(
    "mean-of-means",
    severity="warning",
    section=SECTION,
    remedy="sum over the items of each call, and divide by the number of items of the whole window",
    reference="huggingface/transformers#34191 and the unsloth fix",
)
def mean_of_means(case: Case) -> Iterator[Claim]:
    """Each micro-batch averages over its own number of items, and these numbers differ.

    `mean` does so, and so does a sum that is divided by the size of its own mask.

    An item of a short micro-batch weighs more than one of a long one: with tokens and padding
    easily several times. The gradient points elsewhere, not only further.

    Evidence: the calls of one line in a window have different numbers of items that count (ignored
    and masked ones do not), and the items of each call have the same weight together.

    Or the same within one call: a line that a loop runs again and again (over time steps) takes
    means of equally many targets, of which it ignores more in one turn than in another; a note, as
    each turn may be meant to weigh the same (the labels of several tasks).

    Silent: for equal counts, and for sums divided by one common count. A note where nothing says
    that the calls are parts of one batch (each had a batch of its own from one `DataLoader`, or
    each is divided by their number, or targets were ignored or masked): then they may be episodes
    or chunks of a sequence. Also where only the last micro-batch is shorter, without a mask, in the
    smaller part of the windows (the end of an epoch), and where a call is multiplied by another
    count (its images), or the lines speak of tasks, episodes and the like: what is averaged inside
    is then normalised on purpose.
    """
    yield from _in_one_call(case)
    ragged: dict[object, list[_Stream]] = defaultdict(list)
    even: Counter[object] = Counter()
    key: object
    for stream in _streams(case):
        key = (stream.account.owner, stream.calls[0].source, _loss_line(stream.rows[0]))
        totals = [call_total(stream.rows, call.order) for call in stream.calls]
        if len(set(stream.counts)) == 1:
            even[key] += len(stream.account.steps)
        elif all(is_same(totals[0], other) for other in totals):
            ragged[key].append(stream)
    for key, streams in ragged.items():
        severity = _raggedness(streams, even[key])
        for stream in streams:
            is_sure = _is_accumulated(case, stream) and _is_of_items(stream)
            yield _mean_of_means(case, stream, severity if is_sure else "note")


def _in_one_call(case: Case) -> Iterator[Claim]:
    """Means in a loop before one backward(), of equally many targets with more or fewer ignored."""
    for account in case.accounts:
        for rows in terms_of(account) if account.steps else ():
            first = rows[0].call
            own = [row for row in rows if row.call == first and row.replica == rows[0].replica]
            counts = [row.items for row in own]
            sizes = {row.items + row.masked for row in own}
            if len(set(counts)) < 2 or len(sizes) > 1 or not all(map(is_known, own)):
                continue
            is_mean = all(row.reductions and row.reductions[-1].kind == "mean" for row in own)
            if not is_mean or not all(is_same(own[0].total, row.total) for row in own):
                continue
            ratio = Fraction(max(counts), min(counts))
            yield Claim(
                f"a mean of means: {len(own)} means of one line, over {min(counts):,} to "
                f"{max(counts):,} of {sizes.pop():,} items each, weigh the same together, so an "
                f"item weighs up to {said(ratio)} x another",
                _loss_line(own[0]),
                account.buffers,
                ratio,
                [
                    Proof(f"{row.items:,} items, {row.masked:,} left out", _loss_line(row),
                          row.weight)
                    for row in own[:6]
                ],
                account.steps,
                case.looked_at(account),
                "note",
                "sum over the items of all turns, and divide by their number once",
            )  # fmt: skip


def _raggedness(streams: list[_Stream], even: int) -> Severity:
    """How much it matters that the counts differ."""
    shapes = {tuple(stream.counts) for stream in streams}
    windows = sum(len(stream.account.steps) for stream in streams)
    only_last = all(len(set(c[:-1])) == 1 and c[-1] < c[0] for c in shapes)
    is_masked = any(row.masked for stream in streams for row in stream.rows)
    if only_last and windows <= even and not is_masked:
        return "note"
    return "warning"


def _is_accumulated(case: Case, stream: _Stream) -> bool:
    """Whether the calls are meant as parts of one batch: something says so, and nothing else."""
    if any(row.masked for row in stream.rows) or _is_of_parts(case, stream):
        return True
    texts, _ = _said_of(case, stream)
    share = call_total(stream.rows, stream.calls[0].order)
    is_divided = is_same(share, Fraction(1, len(stream.calls)))
    return is_divided and not says(texts, UNITS) and not says(texts, LOOP_OVER_UNITS)


def _is_of_items(stream: _Stream) -> bool:
    """Whether the calls are means by themselves or together, and not weighted by another count."""
    share = call_total(stream.rows, stream.calls[0].order)
    return is_same(share, ONE) or is_same(share, Fraction(1, len(stream.calls)))


def _mean_of_means(case: Case, stream: _Stream, severity: Severity) -> Claim:
    counts, calls = stream.counts, len(stream.calls)
    ratio = Fraction(max(counts), min(counts))
    is_added = is_same(call_total(stream.rows, stream.calls[0].order), ONE)
    whole = f", and as they are not divided by {calls}, all of it is {calls} x" if is_added else ""
    weights = [
        Proof(f"call {row.number}: {row.items:,} items", _loss_line(row), row.weight)
        for row in stream.rows
    ]
    return Claim(
        f"a mean of means: calls of {', '.join(f'{n:,}' for n in counts[:6])}"
        f"{' ...' if counts[6:] else ''} items each divide by their own count, so an item weighs "
        f"up to {said(ratio)} x another{whole}",
        _loss_line(stream.rows[0]),
        stream.account.buffers,
        ratio,
        weights,
        stream.account.steps,
        case.looked_at(stream.account),
        severity,
    )


@check(
    "short-window",
    severity="warning",
    section=SECTION,
    remedy="divide by the calls that this window really has, or drop the rest",
    reference="Lightning-AI/pytorch-lightning#19987",
)
def short_window(case: Case) -> Iterator[Claim]:
    """The loss is divided by the usual number of calls, but this window has another number of them.

    The last window of an epoch is shorter when the batches do not come out even. Its step is only
    as long as its share.

    Evidence: each call carries 1/k, other windows have k calls, and this one has not.

    Silent: when every window has as many calls as its divisor says, though some of them may not
    reach all parameters (a head for each level).
    """
    usual: dict[object, set[int]] = defaultdict(set)
    whole: set[object] = set()
    found = []
    for stream in _streams_of_any_length(case):
        key = (stream.account.owner, stream.calls[0].source)
        share = call_total(stream.rows, stream.calls[0].order)
        if isinstance(share, Fraction) and share.numerator == 1 and share.denominator > 1:
            if share.denominator == len(stream.calls):
                usual[key].add(share.denominator)
                whole.add((key, stream.account.steps[0]))
            else:
                found.append((key, share.denominator, stream))
    for key, divisor, stream in found:
        # Of a window that has all its calls some may not reach every parameter.
        if divisor in usual[key] and (key, stream.account.steps[0]) not in whole:
            yield _short(case, stream, divisor)


def _streams_of_any_length(case: Case) -> Iterator[_Stream]:
    for account in case.accounts:
        rows = [row for rows in terms_of(account) for row in rows]
        if account.steps and rows and all(is_known(row) for row in rows):
            for calls in case.streams(account):
                orders = {call.order for call in calls}
                own = [row for row in rows if row.call in orders]
                if own:
                    yield _Stream(account, calls, own, from_loader=False)


def _short(case: Case, stream: _Stream, divisor: int) -> Claim:
    count, share = len(stream.calls), Fraction(1, divisor)
    factors = [f for f in (*stream.rows[0].loss, *stream.rows[0].after) if is_same(f.value, share)]
    line = next((f.source for f in factors if f.kind != "reduction" and f.source is not None), None)
    return Claim(
        f"the loss is divided by {divisor}, but this window has {count} "
        f"call{'' if count == 1 else 's'}: the gradient is {count}/{divisor} of the mean",
        stream.calls[0].source if line is None else line,
        stream.account.buffers,
        Fraction(count, divisor),
        [
            Proof("each call", line, share),
            Proof(f"{count} of {divisor} calls", stream.calls[0].source),
        ],
        stream.account.steps,
        case.looked_at(stream.account),
    )


# What was in the buffer before.


@check(
    "missing-zero-grad",
    severity="error",
    section=SECTION,
    remedy="call optimizer.zero_grad() between the step and the next backward()",
    reference="pytorch/pytorch#47175",
)
def missing_zero_grad(case: Case) -> Iterator[Claim]:
    """A step consumes gradients that earlier steps have consumed already.

    Nobody emptied the buffers in between, so step t takes the sum of all t gradients so far.

    Evidence: contributions of earlier windows are still in the buffer, beside new ones. Or an
    optimizer that evaluates its closure up to `max_iter` times in a step (LBFGS) did so, and each
    evaluation but the first found there what the one before had left.

    Silent: for calls that are accumulated and consumed once, however many.
    """
    yield from _evaluated_again(case)
    for account in case.accounts:
        step = account.ledger.step
        if step is None:
            continue
        own = {s.order for s in case.trace.steps} - {step.order}
        stale = [e for e in account.entries if own & set(e.consumed)]
        fresh = [e for e in account.fresh if e.call is not None]
        if not stale or not fresh or any(_is_kept_on_purpose(entry) for entry in stale):
            continue
        used = sorted({case.books.archive.by_order[o].step for e in stale for o in e.consumed
                       if o in own})  # fmt: skip
        others = {
            s.kind for s in case.trace.steps
            if s.optimizer != step.optimizer and any(s.order in e.consumed for e in stale)
        }  # fmt: skip
        of = f" of {', '.join(sorted(others))}, another optimizer," if others else ""
        yield Claim(
            f"the step also consumes gradients that earlier steps{of} have consumed: "
            "the buffers are not emptied between steps",
            step.source,
            account.buffers,
            None,
            [
                Proof(f"{len(stale)} of {len(account.entries)} contributions at step {step.step} "
                      f"were consumed before, by step {used[0]}"
                      + (f" to {used[-1]}" if used[1:] else ""), stale[0].source),
                Proof("no zero_grad between", step.source),
            ],
            account.steps,
            case.looked_at(account),
        )  # fmt: skip


def _evaluated_again(case: Case) -> Iterator[Claim]:
    """A closure that empties no buffers: each evaluation adds to those before."""
    for found in evaluations(case).values():
        step, calls = found.step, found.calls
        yield Claim(
            f"{step.kind} evaluates its closure several times in a step, and nobody empties the "
            f"buffers in between: the gradients of {len(calls)} backward calls add up",
            calls[0].source,
            found.buffers,
            None,
            [
                Proof(f"{step.kind}.step", step.source),
                Proof(f"{len(calls)} calls inside it, no zero_grad between", calls[0].source),
            ],
            [step.step],
            sum(s.optimizer == step.optimizer for s in case.trace.steps),
            remedy="call optimizer.zero_grad() in the closure, before its backward()",
        )


def _is_kept_on_purpose(entry: Entry) -> bool:
    """Whether somebody scaled what was kept, as a momentum of one's own does."""
    after = entry.consumed[0]
    return any(change.kind == "edit" and change.order >= after for change in entry.changes)


@check(
    "double-backward-same-graph",
    severity="warning",
    section=SECTION,
    remedy="send each loss backward once: add the losses and call backward() a single time",
    reference='the usual outcome of silencing "backward through the graph a second time"',
)
def double_backward_same_graph(case: Case) -> Iterator[Claim]:
    """The same term of a loss is sent backward twice into one window, by `retain_graph=True`.

    `total = total + loss; total.backward(retain_graph=True)` in a loop counts the first term as
    often as the loop runs.

    Evidence: the very nodes that reduce a loss run in two backward calls, and both of them are in
    the buffer that a step consumes. The factor is how often, if what a call sent is all that the
    calls before sent; where one had further terms, these count less often: no factor is told.

    Silent: for a trunk that several heads share (each head's loss runs once), for double
    backward by `create_graph`, and when the buffers are emptied in between.
    """
    claims: dict[int | None, list[Claim]] = defaultdict(list)
    uneven: set[int | None] = set()
    for account in case.accounts:
        if not account.steps:
            continue
        counts: Counter[int | None] = Counter()
        proofs: dict[int | None, list[Proof]] = defaultdict(list)
        for call, earlier in _sent_again(case, account):
            counts[call.source] += 1
            proofs[call.source] += [
                Proof("sent backward, graph retained", case.event_source(order))
                for order in earlier
            ]
            proofs[call.source].append(Proof("and again", call.source))
            before = total([call_total(account.rows, order) for order in earlier])
            if not is_same(before, call_total(account.rows, call.order)):
                uneven.add(call.source)
        for source, count in counts.items():
            claims[source].append(_counted_again(case, account, source, count + 1, proofs[source]))
    for source, made in claims.items():
        yield from (_without_factor(claim) if source in uneven else claim for claim in made)


def _sent_again(case: Case, account: Account) -> Iterator[tuple[Call, list[int]]]:
    """Calls in the buffer that run losses of earlier calls in it once more, and these calls."""
    inside = {entry.call for entry in account.fresh}
    for call in case.calls_of(account):
        if call.order not in inside:
            continue
        found = dict.fromkeys(
            order
            for node, order in call.again
            if order in inside and counts_again(case, call, node)
        )
        if found:
            yield call, list(found)


def _counted_again(
    case: Case, account: Account, source: int | None, count: int, proofs: list[Proof]
) -> Claim:
    return Claim(
        f"a loss is sent backward {count} times over the same graph: its gradient counts {count} "
        "times",
        source,
        account.buffers,
        Fraction(count),
        proofs,
        account.steps,
        case.looked_at(account),
    )


def _without_factor(claim: Claim) -> Claim:
    """The same where the calls did not send the same: some terms count less often than others."""
    count = said(claim.factor)
    words = f"terms of a loss are sent backward up to {count} times over the same graph, and others"
    return replace(claim, message=f"{words} less often: they weigh unequally", factor=None)


def counts_again(case: Case, call: Call, node: int) -> bool:
    """Whether the nodes behind this one include those that reduce a loss."""
    facts = case.call(call.order)
    ends = {
        reduction.node if (reduction := one.strand.reductions[-1]).node >= 0 else one.node
        for one in case.books.flow(call.order).sites.values()
        if one.strand.reductions
    }
    ends |= {root.node for root in facts.layout.roots}
    return facts.leads(node, ends)


@check(
    "clip-per-microbatch",
    severity="warning",
    section=SECTION,
    remedy="clip once, after the last backward() of the window and before the step",
    reference="huggingface/transformers#986",
)
def clip_per_microbatch(case: Case) -> Iterator[Claim]:
    """Gradients are clipped after each call of a window: the early calls are clipped again and
    again.

    The clip scales all that is in the buffer. What came first is multiplied by every coefficient
    that follows, so the calls weigh unequally, and the direction changes.

    Evidence: a clip with a coefficient below 1 between two contributions of one window.

    Silent: for one clip before the step, and where no clip had anything to do.
    """
    for account in case.accounts:
        if not account.steps or len(account.fresh) < 2:
            continue
        first, last = account.fresh[0], account.fresh[-1]
        extra = [
            c for c in first.changes if c.kind.startswith("clip") and c.order < (last.call or 0)
        ]
        if not extra:
            continue
        factor = product(change.factor for change in extra)
        by = "" if factor is None else f", {said(factor)} x"
        yield Claim(
            f"clipped {len(extra)} times between the {len(account.fresh)} calls of a window: the "
            f"first call weighs less than the last{by}",
            extra[0].source,
            account.buffers,
            factor,
            [Proof(c.words, c.source, c.factor) for c in extra],
            account.steps,
            case.looked_at(account),
        )
