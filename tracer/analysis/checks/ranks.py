"""Checks of jobs of several ranks: what their losses and gradients come to together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.weights import is_known
from tracer.analysis.exact import is_same, said, total
from tracer.analysis.ledger import Row, steps_of
from tracer.analysis.rankaxis import BY_HAND, named_ranks, rank_factor, world_of
from tracer.analysis.strand import Factor
from tracer.events import Call, Exchange, Measurement
from tracer.semantics.effects import Exact

SECTION = "Ranks"
ONE = Fraction(1)

RANKS = re.compile(r"world|rank|replica|process|gpu|device", re.IGNORECASE)
"""What a divisor is called that is the number of ranks."""


def _shared(case: Case) -> Iterator[tuple[Account, list[Row], int]]:
    """The accounts that ranks exchanged, with rows whose weight is known, and how many ranks."""
    for account in case.accounts:
        rows = [row for row in account.joint.rows if not row.is_repeated]
        world = world_of(account.joint)
        if world > 1 and rows and all(is_known(row) for row in rows):
            yield account, rows, world


def _factor(rows: Sequence[Row], world: int) -> Exact | None:
    """What the exchange multiplied every row with, None where that differs."""
    values = [rank_factor(row, world)[0] for row in rows]
    return values[0] if all(is_same(values[0], value) for value in values) else None


def _is_mean(rows: Sequence[Row], world: int) -> bool:
    factor = _factor(rows, world)
    return factor is not None and is_same(factor, Fraction(1, world))


def _by_rank(rows: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.rank or 0, []).append(row)
    return found


def _alone(rows: Sequence[Row], world: int) -> Exact | None:
    """The weights of all items of a rank together, as if it were alone."""
    found: list[Exact] = []
    for row in rows:
        factor = rank_factor(row, world)[0]
        if not factor or row.total is None:
            return None
        found.append(row.total / factor)
    return total(found)


def _line(rows: Sequence[Row]) -> int | None:
    reductions = rows[0].reductions
    return reductions[-1].source if reductions else rows[0].term.source


def _severity(account: Account) -> Severity:
    optimizer = account.optimizer
    return "note" if optimizer is not None and optimizer.is_adaptive else "warning"


def _weights(rows: Sequence[Row]) -> list[Proof]:
    return [
        Proof(f"rank {row.rank}: {row.items} items", _line([row]), row.weight) for row in rows[:4]
    ]


def _exchange(account: Account) -> Proof:
    last = account.joint.history.shared[-1]
    return Proof(f"{last.by}: {last.operation}", last.source, last.factor)


@check(
    "global-divisor-averaged",
    severity="warning",
    section=SECTION,
    remedy="divide by this rank's own count, or multiply the loss by the number of ranks",
    reference="huggingface/transformers#34242",
)
def global_divisor_averaged(case: Case) -> Iterator[Claim]:
    """The loss is divided by the count of all ranks, and then the gradients are averaged over them.

    The division by the number of ranks happens twice: the gradient is 1/W of the mean.

    Evidence: a sum divided by one number, the items of all ranks together, and an exchange that
    averages. Or means over each rank's own items and an exchange that averages, and then the
    gradient is divided by the number of ranks by hand, or the loss in a line that speaks of ranks:
    all items together weigh 1/W.

    Silent: when the loss is multiplied by the number of ranks, when a hook or a hand adds without
    dividing, and for means over the rank's own items.
    """
    yield from _averaged_and_divided(case)
    for account, rows, world in _shared(case):
        count = sum(row.items * row.copies for row in rows)
        divisor = Fraction(1, count)
        is_divided = all(
            is_same(row.weight_at_loss, divisor)
            and any(f.kind == "scale" and is_same(f.value, divisor) for f in row.loss)
            for row in rows
        )
        if is_divided and _is_mean(rows, world):
            factor = Fraction(1, world)
            yield Claim(
                f"the loss is divided by the {count} items of all {world} ranks, and their "
                f"gradients are averaged: {said(factor)} of the mean",
                _line(rows), account.buffers, factor, [*_weights(rows), _exchange(account)],
                account.steps, case.looked_at(account), _severity(account),
            )  # fmt: skip


def _averaged_and_divided(case: Case) -> Iterator[Claim]:
    """An exchange that averages, and a division by the number of ranks beside it."""
    for account, rows, world in _shared(case):
        share = Fraction(1, world)
        whole = total([row.total * row.copies for row in rows if row.total is not None])
        beside = [_divisor(case, row, world) for row in rows]
        if not (_is_mean(rows, world) and is_same(whole, share)) or None in beside:
            continue
        first = next(factor for factor in beside if factor is not None)
        by = "by hand" if first.kind in BY_HAND else "in the loss"
        yield Claim(
            f"the gradients of {world} ranks are averaged, and divided by {world} once more "
            f"{by}: {said(share)} of the mean",
            account.ledger.step.source if first.source is None and account.ledger.step
            else first.source or _line(rows),
            account.buffers, share,
            [_exchange(account), Proof(first.words or f"x {said(share)}", first.source, share)],
            account.steps, case.looked_at(account), _severity(account),
            "divide once: the exchange averages already",
        )  # fmt: skip


def _divisor(case: Case, row: Row, world: int) -> Factor | None:
    """What divides a row by the number of ranks and is no part of the exchange."""
    share, (_, taken) = Fraction(1, world), rank_factor(row, world)
    for factor in (*row.after, *row.loss):
        text = case.text(factor.source)
        is_said = factor.kind == "scale" and "/" in text and RANKS.search(text) is not None
        is_by_hand = factor.kind in BY_HAND and factor in row.after and factor not in taken
        if is_same(factor.value, share) and (is_said or is_by_hand):
            return factor
    return None


@check(
    "rank-mean-of-means",
    severity="warning",
    section=SECTION,
    remedy="sum the loss, divide by the count of all ranks (all-reduced), and multiply by their "
    "number",
    reference="huggingface/transformers#34242",
)
def rank_mean_of_means(case: Case) -> Iterator[Claim]:
    """Each rank averages over its own count, the counts differ, and the means are averaged.

    An item of the rank with the fewest weighs most; the direction of the gradient is another one.

    Evidence: the items of the ranks differ in the same call, those of each rank weigh the same
    together, and the exchange averages.

    Silent: for equal counts, and for sums with one divisor. A note where most windows have equal
    counts: the last batch of an epoch.
    """
    found = [
        (account, rows, world)
        for account, rows, world in _shared(case)
        if _is_mean(rows, world) and not _is_sum(rows)
    ]
    uneven = [one for one in found if not _are_equal([row.weight for row in one[1]])]
    even = sum(len(account.steps) for account, rows, _ in found
               if _are_equal([row.weight for row in rows]))  # fmt: skip
    windows = sum(len(account.steps) for account, _, _ in uneven)
    severity: Severity = "note" if 0 < windows <= even else "warning"
    for account, rows, world in uneven:
        ranks = _by_rank(rows)
        totals = [_alone(own, world) for own in ranks.values()]
        is_one_each = all(is_same(totals[0], one) for one in totals)
        counts = [sum(row.items for row in own) for own in ranks.values()]
        if not is_one_each or len(set(counts)) == 1:
            continue
        ratio = Fraction(max(counts), min(counts))
        yield Claim(
            f"a mean of the means of {world} ranks with {', '.join(map(str, counts[:8]))} items: "
            f"an item weighs up to {said(ratio)} x another",
            _line(rows), account.buffers, ratio, [*_weights(rows), _exchange(account)],
            account.steps, case.looked_at(account), severity,
        )  # fmt: skip


@check(
    "comm-hook-not-averaged",
    severity="warning",
    section=SECTION,
    remedy="divide by the number of ranks in the hook, and leave all calls but the last of a "
    "window in `no_sync()`",
    reference="pytorch/pytorch#42399",
)
def comm_hook_not_averaged(case: Case) -> Iterator[Claim]:
    """A communication hook, or a hand, adds the gradients of the ranks and nobody divides the sum.

    The gradient is W times the mean. If each call of an accumulation is exchanged so, what earlier
    calls left is added over the ranks again: it grows by W with each call.

    Evidence: what entered the exchange is undivided, the items of each rank weigh 1 together, and
    nothing divides afterwards.

    Silent: for the default reducer, hooks that divide, sums over items, and losses divided by the
    count of all ranks.
    """
    for account, rows, world in _shared(case):
        values = [rank_factor(row, world)[0] for row in rows]
        if _is_again(account, rows):
            continue
        if any(value is None or abs(float(value)) < 1 - 1e-6 for value in values):
            continue
        per_call = [_alone([row], world) for row in rows]
        calls = {row.call for row in rows if row.rank == account.joint.rank} or {0}
        each = [one for one in per_call if one is not None]
        if len(each) < len(rows) or _is_sum(rows):
            continue
        is_mean = all(is_same(one, ONE) or is_same(one, Fraction(1, len(calls))) for one in each)
        if not is_mean:
            continue
        largest = max(abs(float(value)) for value in values if value is not None)
        factor = Fraction(round(largest * world)) if largest >= 1 else Fraction(world)
        shared = account.joint.history.shared
        times = len(shared)
        grows = "" if times < 2 else f", {times} times: what was in the buffer is added again"
        yield Claim(
            f"the gradients of {world} ranks are added and not divided ({shared[-1].by}){grows}: "
            f"{'up to ' if times > 1 else ''}{said(factor)} x the mean",
            shared[-1].source, account.buffers, factor,
            [*_weights(rows), *(Proof(f"{one.by}: {one.operation}", one.source, one.factor)
                                for one in shared[:4])],
            account.steps, case.looked_at(account), _severity(account),
        )  # fmt: skip


@check(
    "averaged-twice",
    severity="warning",
    section=SECTION,
    remedy="leave the exchange to DistributedDataParallel, or do not wrap the model",
)
def averaged_twice(case: Case) -> Iterator[Claim]:
    """Gradients that were exchanged already, and are equal on all ranks, are exchanged again.

    A sum of equal gradients is W times one of them; divided by W it is as before, at the price of
    an exchange; divided before and after it is 1/W.

    Evidence: a second exchange by somebody else, and what enters it is the same on all ranks.

    Silent: for accumulation that exchanges each call, for the two stages of hybrid sharding, and
    for reduced copies that are not put back.
    """
    for account, rows, world in _shared(case):
        if not _is_again(account, rows):
            continue
        shared = account.joint.history.shared
        factor = _factor(rows, world)
        relative = None if factor is None else factor * world * _undone(rows, world)
        is_harmless = relative is not None and is_same(relative, ONE)
        words = "" if relative is None or is_harmless else f": {said(relative)} x the mean"
        severity: Severity = "note" if is_harmless else _severity(account)
        yield Claim(
            f"gradients that {shared[0].by} had made equal on {world} ranks are exchanged again "
            f"({shared[-1].by}){words}",
            shared[-1].source, account.buffers, None if is_harmless else relative,
            [Proof(f"{one.by}: {one.operation}", one.source, one.factor) for one in shared],
            account.steps, case.looked_at(account), severity,
        )  # fmt: skip


def _is_again(account: Account, rows: Sequence[Row]) -> bool:
    """Whether somebody else exchanged what all ranks had already."""
    makers = {one.by.partition(",")[0] for one in account.joint.history.shared}
    again = [f for row in rows for f in row.after if f.words.startswith("in it on ")]
    return len(makers) > 1 and bool(again)


def _undone(rows: Sequence[Row], world: int) -> Exact:
    """What a hand multiplied all with after the exchanges, beside what counts as theirs."""
    own = rank_factor(rows[0], world)[1]
    value: Exact = ONE
    for factor in rows[0].after:
        if factor.kind in ("edit", "hook") and factor not in own and factor.value is not None:
            value = value * factor.value
    return value


@check(
    "ranks-differ",
    severity="warning",
    section=SECTION,
    remedy="call the wrapped module, and leave `no_sync()` before the last call of a window",
)
def ranks_differ(case: Case) -> Iterator[Claim]:
    """Ranks hold the same parameters and consume different gradients: they drift apart.

    The module that was called is not the wrapped one, or `no_sync()` was never left.

    Evidence: the parameter had the same value on all ranks, and the consumed gradients differ.

    Silent: for sharded and tensor-parallel parameters, for parameters that were different to begin
    with, and where ranks average the parameters themselves.
    """
    if _averages_parameters(case):
        return
    for account in case.accounts:
        unlike = account.joint.unlike
        step = account.joint.step
        if not unlike or step is None or not _began_alike(case, account, unlike):
            continue
        is_shared = bool(account.joint.history.shared)
        why = "although they were exchanged" if is_shared else "which were not exchanged"
        first = account.entries[-1].source if account.entries else step.source
        yield Claim(
            f"the ranks consume different gradients, {why}: {named_ranks(unlike)} from "
            f"rank {account.joint.rank}",
            first, account.buffers, None,
            [Proof(f"rank {account.joint.rank} consumes |grad| {account.joint.norm or 0:.4g}",
                   step.source)],
            account.steps, case.looked_at(account),
        )  # fmt: skip


@check(
    "parameters-differ",
    severity="warning",
    section=SECTION,
    remedy="hand rank 0's values to all before training: DistributedDataParallel does, or "
    "`dist.broadcast(p.data, 0)` for each parameter and buffer",
)
def parameters_differ(case: Case) -> Iterator[Claim]:
    """Ranks exchange gradients of a parameter whose value is not the same on all of them.

    The models were made from different seeds, and nobody handed one's values to the others. Each
    rank adds the same steps to another model; the average is the gradient of none of them.

    Evidence: the value of the parameter at the first recorded step differs between ranks that
    exchange its gradient, by more than rounding.

    Silent: for parts of sharded parameters, for gradients that are not exchanged, and where a rank
    began to record at another step.
    """
    for account in case.accounts:
        shared = account.joint.history.shared
        buffer = account.buffers[0]
        if not shared or case.books.holdings.is_sharded(buffer):
            continue
        members = {rank for one in shared for rank in one.ranks}
        values = {
            rank: found for rank in sorted(members) if (found := _began_with(case, rank, buffer))
        }
        own = values.get(account.joint.rank or 0)
        if own is None:
            continue
        unlike = [rank for rank, other in values.items() if _is_off(own, other)]
        if not unlike:
            continue
        told = [
            Proof(f"rank {rank}: |value| {m.norm:.6g}", None) for rank, (_, m) in values.items()
        ]
        yield Claim(
            f"ranks exchange gradients of parameters that differ: {named_ranks(unlike)} from "
            f"rank {account.joint.rank or 0}",
            shared[-1].source, account.buffers, None,
            [*told[:4], Proof(f"{shared[-1].by}: {shared[-1].operation}", shared[-1].source)],
            account.steps, case.looked_at(account),
        )  # fmt: skip


ROUNDING = 1e-3
"""Of the norm: what values may differ by that were equal once, and drift."""


def _began_with(case: Case, rank: int, buffer: int) -> tuple[int, Measurement] | None:
    """The value of a parameter when a rank first recorded it, and at which step."""
    books, same = case.books.ranks.get(rank), case.books.same(buffer)
    if books is None or rank not in same:
        return None
    for step in steps_of(books.trace, same[rank])[:1]:
        value = books.archive.reading(step, same[rank], "value")
        if value is not None and value.measured is not None:
            return step.step, value.measured
    return None


def _is_off(own: tuple[int, Measurement], other: tuple[int, Measurement]) -> bool:
    (step, here), (late, there) = own, other
    if step != late or here.elements != there.elements or here.nonfinite or there.nonfinite:
        return False
    pairs = zip(here.fingerprint, there.fingerprint, strict=False)
    far = max((abs(a - b) for a, b in pairs), default=0.0)
    return far > ROUNDING * max(here.norm, there.norm)


@check(
    "same-data",
    severity="note",
    section=SECTION,
    remedy="give each rank samples of its own: `DistributedSampler(dataset)`, a seed per rank",
)
def same_data(case: Case) -> Iterator[Claim]:
    """All ranks contribute the same gradient: they work on the same samples.

    The average over the ranks is then what one of them has alone; the others work for nothing.

    Evidence: what each rank gave is the same, to the last bit, and so is the loss.

    Silent: for a single rank with samples of its own, for ranks that share the work on the same
    samples (tensor parallel), and for simulated ranks, which are equal by assumption.
    """
    if case.trace.info.simulated:
        return
    for account, _, world in _shared(case):
        given = _given(account)
        calls = case.calls_of(account)
        if len(given) < world or len(set(given.values())) > 1 or not calls:
            continue
        values = list(_roots(case, calls[0].order).values())
        if len(values) < 2 or len(set(values)) > 1:
            continue
        yield Claim(
            f"{world} ranks contribute the same gradient: they work on the same samples",
            account.entries[-1].source if account.entries else None, account.buffers, None,
            [Proof(f"the loss is {values[0] or 0:.6g} on each of {len(values)} ranks",
                   calls[0].source)],
            account.steps, case.looked_at(account),
        )  # fmt: skip


def _given(account: Account) -> dict[int, tuple[tuple[float, ...], ...]]:
    """The fingerprints of what each rank gave, where any of it is not zero."""
    found: dict[int, tuple[tuple[float, ...], ...]] = {}
    for entry in account.joint.history.entries:
        measured = entry.tensor.measured if entry.tensor is not None else None
        if measured is not None and entry.rank is not None and measured.norm and not entry.is_rest:
            found[entry.rank] = (*found.get(entry.rank, ()), measured.fingerprint)
    return found


def _averages_parameters(case: Case) -> bool:
    """Whether ranks add or average parameters: local SGD."""
    return any(
        exchange.kind in ("all_reduce", "reduce_scatter")
        and any(p.content == "parameter" for p in case.trace.layout(exchange.layout).pieces)
        for exchange in case.trace.exchanges
    )


def _began_alike(case: Case, account: Account, ranks: Sequence[int]) -> bool:
    """Whether the first step that kept the parameter's value found the same on these ranks."""
    buffer = account.buffers[0]
    own = _first_value(case, account.joint.rank or 0, buffer)
    same = case.books.same(buffer)
    others = [_first_value(case, rank, same[rank]) for rank in ranks if rank in same]
    return own is not None and all(
        other is not None and other.fingerprint == own.fingerprint for other in others
    )


def _first_value(case: Case, rank: int, buffer: int) -> Measurement | None:
    books = case.books.ranks[rank]
    for step in books.trace.steps[:1]:
        value = books.archive.reading(step, buffer, "value")
        return None if value is None else value.measured
    return None


def _roots(case: Case, call: int) -> dict[int, float | None]:
    """The value of the loss of a call on each rank, by the number of the call."""
    number = case.numbers[call]
    found: dict[int, float | None] = {}
    for rank, books in case.books.ranks.items():
        if number > len(books.trace.calls):
            continue
        facts = books.archive.call(books.trace.calls[number - 1].order)
        root = next(iter(facts.layout.roots), None)
        value = None if root is None or root.value is None else facts.tensor(root.form, root.value)
        measured = None if value is None else value.measured
        found[rank] = None if measured is None else float(abs(measured.sum))
    return found


def _exchanges_before(case: Case, call: Call) -> list[Exchange]:
    """What was exchanged in the forward of a call."""
    earlier = [c.order for c in case.trace.calls if c.order < call.order and c.nested_in is None]
    since = earlier[-1] if earlier else -1
    return [e for e in case.trace.exchanges if since < e.order < call.order and e.call is None]


def _exchanges_inside(case: Case, call: Call) -> list[Exchange]:
    """What the backward of differentiable operations exchanged."""
    return [
        e for e in case.trace.exchanges
        if e.call == call.order and e.wrapper is None and not _is_gradient(case, e)
    ]  # fmt: skip


def _is_gradient(case: Case, exchange: Exchange) -> bool:
    return any(p.content == "gradient" for p in case.trace.layout(exchange.layout).pieces)


@check(
    "gather-detached",
    severity="warning",
    section=SECTION,
    remedy="gather with `torch.distributed.nn.functional.all_gather`, or multiply the loss by the "
    "number of ranks",
    reference="lightly-ai/lightly#1977",
)
def gather_detached(case: Case) -> Iterator[Claim]:
    """The loss is taken over gathered features, of which only the rank's own carry a gradient.

    Every rank computes the same loss and sends back the part of its own features; the average over
    the ranks divides by their number what should have been added up.

    Evidence: the loss has the same value on all ranks and their gradients differ, an all-gather in
    the forward and nothing exchanged for it in the backward, and gradients that are averaged.

    Silent: for a gather with a gradient, for losses multiplied by the number of ranks, and for
    gathers whose result does not reach the loss.
    """
    for account, rows, world in _shared(case):
        if not _is_mean(rows, world) or any(
            f.kind == "scale" and is_same(f.value, Fraction(world)) for r in rows for f in r.loss
        ):
            continue
        for call in case.calls_of(account):
            gathers = [
                e for e in _exchanges_before(case, call)
                if e.kind == "all_gather" and _elements(case, e) > 1
            ]  # fmt: skip
            values = list(_roots(case, call.order).values())
            is_one = len(values) > 1 and None not in values and len(set(values)) == 1
            if not gathers or not is_one or _exchanges_inside(case, call):
                continue
            if _gave_the_same(account):
                continue
            yield Claim(
                f"the loss is taken over what {world} ranks gathered without a gradient, and the "
                f"gradients are averaged: {said(Fraction(1, world))} of what it should be",
                gathers[-1].source, account.buffers, Fraction(1, world),
                [Proof(f"the loss is {values[0]:.6g} on each of {len(values)} ranks", call.source),
                 Proof("all_gather, of which the backward knows nothing", gathers[-1].source),
                 _exchange(account)],
                account.steps, case.looked_at(account), _severity(account),
            )  # fmt: skip
            break


def _elements(case: Case, exchange: Exchange) -> int:
    pieces = case.trace.layout(exchange.layout).pieces
    return max((p.elements for p in pieces if p.moment == "entered" and p.content != "parameter"),
               default=0)  # fmt: skip


def _gave_the_same(account: Account) -> bool:
    """Whether all ranks contributed the same gradient: they work on the same data."""
    found = [
        e.tensor.measured.fingerprint
        for e in account.joint.history.entries
        if e.tensor is not None and e.tensor.measured is not None
    ]
    return len(set(found)) == 1


@check(
    "loss-all-reduced",
    severity="warning",
    section=SECTION,
    remedy="reduce a detached copy for the log: `total = loss.detach().clone()`",
)
def loss_all_reduced(case: Case) -> Iterator[Claim]:
    """The loss itself is reduced over the ranks before its backward.

    With `torch.distributed.all_reduce` the backward knows nothing of it: the number that is printed
    is the sum, the gradient is not. A differentiable all-reduce adds the gradients of the loss over
    the ranks: W times the gradient.

    Evidence: the tensor that was reduced is the root of the backward call; or the backward reduces
    a single number.

    Silent: for a detached copy, for differentiable operations on features, and where the sum is
    divided by the number of ranks, or a sum over items by a count.
    """
    for kind in case.looked:
        for call in kind.first.calls:
            for exchange in _exchanges_inside(case, call):
                if exchange.kind != "all_reduce" or _elements_inside(case, exchange) != 1:
                    continue
                world = len(case.trace.groups[exchange.group].ranks)
                if _is_divided(case, call, world):
                    continue
                yield Claim(
                    f"the loss is all-reduced with a gradient: {world} x the gradient of each "
                    "rank's loss",
                    _forward_line(case, call, exchange), sorted(kind.first.buffers),
                    Fraction(world),
                    [Proof("the backward adds the gradient of the loss over the ranks",
                           call.source, Fraction(world))],
                    kind.steps,
                )  # fmt: skip
            yield from _reduced_in_place(case, call, sorted(kind.first.buffers), kind.steps)


def _is_divided(case: Case, call: Call, world: int) -> bool:
    """Whether the loss divides by the number of ranks, or its sum over items by a count."""
    for row in (row for account in case.accounts for row in account.rows):
        if row.call != call.order:
            continue
        divisions = [f.value for f in row.loss if f.kind == "scale" and f.value is not None]
        is_sum = all(reduction.kind == "sum" for reduction in row.reductions)
        for value in divisions:
            is_count = is_sum and abs(float(value)) * world <= 1
            if is_count or is_same(value, Fraction(1, world)):
                return True
    return False


def _elements_inside(case: Case, exchange: Exchange) -> int:
    pieces = case.trace.layout(exchange.layout).pieces
    return max((p.elements for p in pieces if p.moment == "entered"), default=0)


def _forward_line(case: Case, call: Call, exchange: Exchange) -> int | None:
    """Where the forward reduced the loss; else the line of the node."""
    forward = [e for e in _exchanges_before(case, call) if e.kind == "all_reduce"]
    if forward:
        return forward[-1].source
    if exchange.node is not None:
        return case.call(call.order).node(exchange.node).source
    return exchange.source


def _reduced_in_place(
    case: Case, call: Call, buffers: Sequence[int], steps: Sequence[int]
) -> Iterator[Claim]:
    root = _roots(case, call.order).get(case.trace.info.rank)
    for exchange in _exchanges_before(case, call):
        pieces = case.trace.layout(exchange.layout).pieces
        rows = case.trace.measurements(exchange)
        left = [p for p in pieces if p.moment == "left"]
        is_tracked = any(p.tracked for p in pieces)
        if exchange.kind != "all_reduce" or not is_tracked or [p.elements for p in left] != [1]:
            continue
        row = left[0].row
        if row is None or root is None or not is_same(float(abs(rows[row].sum)), root):
            continue
        if _exchanges_inside(case, call):
            continue
        world = len(case.trace.groups[exchange.group].ranks)
        yield Claim(
            f"the loss is all-reduced over {world} ranks in place before its backward, which knows "
            "nothing of it: the number is that of all ranks, the gradient is not",
            exchange.source, buffers, None,
            [Proof("the backward starts at what was reduced", call.source)], steps,
        )  # fmt: skip


@check(
    "unused-on-some-ranks",
    severity="note",
    section=SECTION,
    remedy="mean to: the divisor is the number of all ranks",
)
def unused_on_some_ranks(case: Case) -> Iterator[Claim]:
    """A parameter got nothing on some ranks, and its gradient is averaged over all of them.

    The divisor counts the ranks that gave zeros.

    Evidence: what some ranks put into the exchange is zero everywhere.

    Silent: where all ranks gave something, or none did.
    """
    for account in case.accounts:
        for shared in account.joint.history.shared[-1:]:
            world, without = len(shared.ranks), shared.without
            if not without or len(without) >= world or shared.is_simulated:
                continue
            yield Claim(
                f"averaged over {world} ranks, of which {named_ranks(without)} gave nothing",
                shared.source, account.buffers, Fraction(world - len(without), world),
                [Proof(f"{shared.by}: {shared.operation}", shared.source, shared.factor)],
                account.steps, case.looked_at(account),
            )  # fmt: skip


def _is_sum(rows: Sequence[Row]) -> bool:
    """Whether nothing averages over the items, and nothing divides by a count of them."""
    is_added = all(reduction.kind == "sum" for row in rows for reduction in row.reductions)
    return is_added and not any(f.kind == "scale" for row in rows for f in row.loss)


def _are_equal(weights: Sequence[Exact | None]) -> bool:
    return all(is_same(weights[0], weight) for weight in weights)
