"""Checks of how a loss is reduced: summed, averaged twice, over nothing, over pairs by accident."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.weights import call_total, is_known, size, terms_of
from tracer.analysis.exact import is_same, said, total
from tracer.analysis.ledger import Row
from tracer.analysis.strand import Ended, Factor
from tracer.events import Call, Shape
from tracer.semantics.effects import Exact, Moves

SECTION = "Reduction of the loss"

COUNT = re.compile(r"len\(|size|shape|numel|batch|\bbs\b|\bB\b|\b[nN]\b")
"""What the number of items is called."""


@check(
    "sum-reduction",
    severity="note",
    section=SECTION,
    remedy="average the loss, or divide the learning rate by the number of items",
    reference="OneStageDet and darknet divide the learning rate by the batch size instead",
)
def sum_reduction(case: Case) -> Iterator[Claim]:
    """The loss is summed over the items of the batch, so the gradient grows with the batch.

    A batch twice as large makes a step twice as long. That is a choice as good as the mean, if the
    learning rate goes with it: what counts is the product of both.

    Evidence: every reduction on the way from the loss to its items is a sum, and each item has
    weight 1 in what the optimizer consumes. The factor is the number of items, against a mean. Or
    a mean is multiplied by the number of its items or samples again, in a line that speaks of it
    (`loss * len(x)`), and they weigh as much together.

    Silent: when the sum is divided later, in the loss, in the gradient or by a hook; when the
    learning rate is a round number divided by the number of items; for a single item; for a sum
    over the elements of a parameter, or over losses that were reduced before; for a product with
    the gradient that an earlier call gave (`(features * features_grad).sum()`): that call's loss
    was reduced as it is.
    """
    for account in case.accounts:
        optimizer = account.optimizer
        if optimizer is None or not account.steps:
            continue
        for rows in terms_of(account):
            first = rows[0]
            yield from _multiplied_back(case, account, rows)
            items = sum(row.items for row in rows if row.call == first.call)
            if not all(_is_plain_sum(row) for row in rows) or items < 2:
                continue
            if first.samples is not None and first.samples.count == 1:
                continue
            if not case.are_of_a_batch(first) or _hands_on_a_gradient(case, rows):
                continue
            if optimizer.lr is not None and carries_division(optimizer.lr, items):
                continue
            yield Claim(
                f"the loss is a sum over {items:,} items: the gradient is {items:,} x that of "
                f"their mean{_moved_by(account)}",
                first.reductions[-1].source,
                account.buffers,
                Fraction(items),
                [Proof(f.words, f.source, f.value) for f in (*first.loss, *first.after)],
                account.steps,
                case.looked_at(account),
                remedy=f"average the loss; {optimizer.kind} needs no other learning rate for it"
                if optimizer.is_adaptive
                else "",
            )


def _multiplied_back(case: Case, account: Account, rows: list[Row]) -> Iterator[Claim]:
    """A mean that is multiplied by the count that it had divided by."""
    first, optimizer = rows[0], account.optimizer
    counts = (first.items, first.samples.count if first.samples else first.items)
    for count in dict.fromkeys(counts):
        factor = next((f for f in first.loss if _is_count(case, f, count)), None)
        lr = None if optimizer is None else optimizer.lr
        if (
            factor is None
            or not all(is_known(row) for row in rows)
            or not all(is_same(call_total(rows, row.call), Fraction(count)) for row in rows)
            or (lr is not None and carries_division(lr, count))
        ):
            continue
        unit = "items" if count == first.items else "samples"
        yield Claim(
            f"the mean over {count:,} {unit} is multiplied by {count:,} again: the gradient is "
            f"{count:,} x the mean",
            factor.source,
            account.buffers,
            Fraction(count),
            [Proof(f.words, f.source, f.value) for f in (*first.loss, *first.after)],
            account.steps,
            case.looked_at(account),
            remedy="send the mean backward; multiply what is added up for the log, as a number",
        )
        return


def _is_count(case: Case, factor: Factor, count: int) -> bool:
    """Whether a loss is multiplied by a number of items, in a line that says so."""
    text = case.text(factor.source)
    is_said = "*" in text and COUNT.search(text) is not None
    return (
        factor.kind == "scale" and count > 1 and is_same(factor.value, Fraction(count)) and is_said
    )


def _hands_on_a_gradient(case: Case, rows: list[Row]) -> bool:
    """Whether what the items are multiplied with is the gradient of a leaf that was filled before.

    A large batch of embeddings is sent backward first, and its gradient in pieces through the
    model: the squares of all pieces come to that of the whole.
    """
    if not all(factor.kind == "own" for row in rows for factor in row.inside[:1]) or any(
        not row.inside for row in rows
    ):
        return False
    square = 0.0
    for row in rows:
        ended = case.books.flow(row.call).sites[row.call, row.site]
        received = case.call(row.call).received.get(ended.node, {}).values()
        measured = [tensor.measured for tensor in received]
        square += sum(m.norm**2 for m in measured if m is not None)
    first = min(row.call for row in rows)
    earlier = [
        c for c in case.trace.calls if c.order < first and c.step == case.call(first).call.step
    ]
    found = (
        case.books.archive.reading(call, leaf, "after")
        for call in earlier
        for leaf in case.traits(call.layout).leaves
        if not case.trace.buffers[leaf].is_parameter
    )
    norms = [t.measured.norm for t in found if t is not None and t.measured is not None]
    return any(math.isclose(norm**2, square, rel_tol=1e-4) for norm in norms)


def _moved_by(account: Account) -> str:
    """What an item moves or counts, of a job with all that its exchange multiplies by."""
    optimizer = account.optimizer
    lr = None if optimizer is None else optimizer.lr
    weights = [row.weight for row in account.joint.rows]
    is_one = bool(weights) and all(is_same(weights[0], weight) for weight in weights)
    if optimizer is None or lr is None or not is_one or weights[0] is None:
        return ""
    if not optimizer.is_linear:
        return f"; an item counts {said(size(weights[0]))} in what {optimizer.kind} sees"
    return f"; an item moves the weights by lr {_g(lr)} x {said(size(weights[0]))}"


def _is_plain_sum(row: Row) -> bool:
    weight = row.weight
    return (
        bool(row.reductions)
        and all(r.kind == "sum" for r in row.reductions)
        and weight is not None
        and is_same(size(weight), Fraction(1))
    )


def carries_division(lr: float, items: int) -> bool:
    """Whether a learning rate is a round number divided by the number of items."""
    return items > 1 and _digits(lr * items) < _digits(lr)


def _digits(value: float) -> int:
    """How many digits a number needs, written in decimal."""
    text = f"{value:.9e}".partition("e")[0].replace(".", "").rstrip("0")
    return len(text)


def _g(value: float) -> str:
    return f"{value:.6g}"


# A residual that is a matrix.

EXPLICIT = re.compile(
    r"None|newaxis|unsqueeze|\.t\(|\.T\b|\.mT\b|transpose|permute|expand|outer|cdist|einsum|"
    r"meshgrid|@|matmul|(?:view|reshape)\([^)]*,"
)
"""How pairs are asked for in so many words."""

ROW = re.compile(
    r"(?:view|reshape)\(\s*\(?1\s*,|\[\s*None\s*(?:,\s*:\s*)?\]|newaxis\s*,\s*:|"
    r"unsqueeze\((?:dim\s*=\s*)?0\)|\.t\(\)|\.m?T\b|transpose|expand|meshgrid"
)
"""How a row (1, B) is made of a vector, on a line before."""

FUSED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
ADDITIONS = ("SubBackward", "AddBackward", "RsubBackward")
PRODUCTS = ("MulBackward", "DivBackward")
GRID = 1e-4


@check(
    "broadcast-loss",
    severity="warning",
    section=SECTION,
    remedy="give both operands the same shape: `prediction.squeeze(1)` or `target.unsqueeze(1)`",
    reference="pytorch/pytorch#16045, pytorch/pytorch#19699",
)
def broadcast_loss(case: Case) -> Iterator[Claim]:
    """A residual of shapes (B, 1) and (B,) is (B, B): every prediction meets every target.

    Broadcasting stretches both operands, and the loss is a mean over B x B pairs. The model learns
    the mean of the targets. Fused losses of torch print a warning; one written by hand says
    nothing.

    Evidence: the loss is reduced over B x B elements, and the operands of the subtraction or
    product below have different ranks. The shape of an operand without gradient is read where
    it was saved, or seen in the values: a matrix a[i] - b[j] is known by its second
    differences, which are 0; so is one that a vector is multiplied with (an advantage).

    Silent: for pairs that are asked for (`x[:, None] - y`, `unsqueeze`, `cdist`, `@`, a
    transpose in the line; a row `y.view(1, -1)` in the line that gave a variable its value), for
    operands of one rank, and inside modules with parameters, but for the module that takes the loss
    itself.
    """
    for call, steps in _calls_of_kinds(case):
        facts = case.call(call.order)
        for ended in case.books.flow(call.order).sites.values():
            shape = ended.strand.reductions[-1].sent if ended.strand.reductions else ()
            if len(shape) == 2 and shape[0] == shape[1] and shape[0] > 1:
                found = _spread_below(case, facts, ended, shape)
                if found is not None:
                    yield _broadcast(case, facts, found, shape[0], steps)


def _calls_of_kinds(case: Case) -> Iterator[tuple[Call, list[int]]]:
    """The calls that are looked into, each once, with the windows they stand for."""
    if not case.windows:
        seen = {entry.call for a in case.accounts for entry in a.entries}
        yield from ((call, []) for call in case.trace.calls if call.order in seen)
        return
    known: set[int] = set()
    for kind in case.looked:
        for call in kind.first.calls:
            if call.order not in known and call.outcome == "done":
                known.add(call.order)
                yield call, kind.steps


def _spread_below(case: Case, facts: CallFacts, ended: Ended, shape: Shape) -> int | None:
    """The node below the items whose operands were spread to pairs by accident."""
    edges = facts.structure.edges
    stack = [edges[number].receiver for number in ended.edges] + [ended.node]
    seen: set[int] = set()
    reduced_by = ended.strand.reductions[-1].node
    loss = facts.node(reduced_by).module if reduced_by >= 0 else None
    while stack:
        node = stack.pop()
        is_of_loss = loss is not None and facts.node(node).module == loss
        if node in seen or (case.is_in_network(facts, node) and not is_of_loss):
            continue
        seen.add(node)
        received = facts.received.get(node, {}).get(0)
        if received is None or received.form.shape != shape:
            continue
        if _is_accident(case, facts, node, shape[0]):
            return node
        stack += [sent.edge.receiver for sent in facts.leaving.get(node, ())]
    return None


def _is_accident(case: Case, facts: CallFacts, node: int, size: int) -> bool:
    name, called = facts.node(node).name, facts.node(node).called
    sent = [s.tensor.form.shape for s in facts.leaving.get(node, ())]
    if not any(shape in ((size, 1), (size,)) for shape in sent):
        return False
    if name.startswith("Expand"):
        above = [s.edge.sender for s in facts.arriving.get(node, ())]
        return called in FUSED and any(
            facts.saved(n).get("target_spread") or _is_grid(facts, n) for n in above
        )
    ends = _operands(facts, node)
    if _is_asked_for(case, facts.node(node).source) or _are_one(ends) or _are_leaves(facts, ends):
        return False
    if name.startswith(ADDITIONS):
        if len(sent) == 2:
            return set(sent) == {(size, 1), (size,)}
        return any(_is_grid(facts, s.edge.sender) for s in facts.arriving.get(node, ()))
    if name.startswith(PRODUCTS):
        saved = facts.saved(node)
        if saved.get("operand_grid_error", 1.0) < GRID:
            return True
        shapes = {*sent, *(tuple(saved[k]) for k in ("self_sizes", "other_sizes") if k in saved)}
        return shapes == {(size, 1), (size,)}
    return False


def _is_asked_for(case: Case, source: int | None) -> bool:
    """Whether a line asks for pairs, or the one that made a row of one of its variables."""
    found = case.source(source)
    assigned = () if found is None else found.assigned
    return bool(EXPLICIT.search(case.text(source))) or any(map(ROW.search, assigned))


def _operands(facts: CallFacts, node: int) -> list[list[int]]:
    """For each operand that needs a gradient: its node, and those that it is only a view of."""
    ends: list[list[int]] = []
    for sent in facts.leaving.get(node, ()):
        seen = [sent.edge.receiver]
        while len(onward := facts.leaving.get(seen[-1], [])) == 1:
            if not isinstance(facts.effect(onward[0]), Moves):
                break
            seen.append(onward[0].edge.receiver)
        ends.append(seen)
    return ends


def _are_one(ends: list[list[int]]) -> bool:
    """Whether both operands are views of one tensor: its elements meet one another on purpose."""
    return len(ends) == 2 and not set(ends[0]).isdisjoint(ends[1])


def _are_leaves(facts: CallFacts, ends: list[list[int]]) -> bool:
    """Whether both operands are parameters, made to meet: one for each row, one for each column."""
    return len(ends) == 2 and all(facts.node(end[-1]).buffer is not None for end in ends)


def _is_grid(facts: CallFacts, node: int) -> bool:
    """Whether a node found its operand to be a[i] + b[j]."""
    error = facts.saved(node).get("grid_error")
    above = [s.edge.sender for s in facts.arriving.get(node, ())]
    if error is None and facts.node(node).name.startswith(ADDITIONS):
        return any(_is_grid(facts, n) for n in above)
    return error is not None and error < GRID


def _broadcast(case: Case, facts: CallFacts, node: int, size: int, steps: list[int]) -> Claim:
    own = next(s.tensor.form.shape for s in facts.leaving[node] if len(s.tensor.form.shape) < 3)
    other = (size,) if len(own) == 2 else (size, 1)
    found = facts.node(node)
    how = f"operands of shapes {own} and {other} were broadcast to ({size}, {size})"
    if "operand_grid_error" in facts.saved(node):
        how = (
            f"what {own} is multiplied with is ({size}, {size}), made of {size} + {size} numbers "
            "by broadcasting, on a line before"
        )
    return Claim(
        f"the loss is taken over {size} x {size} pairs, not over {size} items: {how}",
        found.source,
        sorted(b for b in facts.writers),
        None,
        [
            Proof(f"{found.called or found.name} makes ({size}, {size}) of {own}", found.source),
            Proof("backward", facts.call.source),
        ],
        steps,
        len(case.windows),
    )


# Means over nothing, and over weights.


@check(
    "empty-reduction",
    severity="error",
    section=SECTION,
    remedy="skip the batch, or divide by `count.clamp(min=1)`",
    reference="pytorch/pytorch#70348",
)
def empty_reduction(case: Case) -> Iterator[Claim]:
    """A mean over no item at all: 0 / 0, and the loss is NaN.

    All targets of a batch are ignored, a mask picks nothing, a detector's image has no object.

    Evidence: the sum of the weights that a loss divides by is 0, a division has the divisor 0, or a
    mean is taken of a tensor without elements.

    Silent: when the divisor is kept above 0.
    """
    for layout, calls in _by_layout(case.trace.calls).items():
        divisors = case.traits(layout).divisors
        for call in calls if divisors else ():
            scalars = case.trace.scalars(call)
            for one in divisors:
                at = one.position
                if at is None or (at < len(scalars) and scalars[at] == 0):
                    yield _empty(case, call, one.node, one.words)


def _by_layout(calls: list[Call]) -> dict[int, list[Call]]:
    found: dict[int, list[Call]] = {}
    for call in calls:
        found.setdefault(call.layout, []).append(call)
    return found


def _empty(case: Case, call: Call, node: int, words: str) -> Claim:
    facts = case.call(call.order)
    found = facts.node(node)
    root = facts.layout.roots[0] if facts.layout.roots else None
    value = facts.tensor(root.form, root.value).measured if root is not None else None
    seen = "" if value is None or not value.nonfinite else ": the loss is not finite"
    return Claim(
        f"{found.called or found.name} divides by 0, {words}{seen}",
        found.source,
        sorted(facts.writers),
        None,
        [
            Proof(words, found.source),
            Proof(f"backward call {case.numbers[call.order]}", call.source),
        ],
        [call.step],
        len({c.step for c in case.trace.calls}),
    )


@check(
    "weighted-mean",
    severity="note",
    section=SECTION,
    remedy="for the same weight in every batch, use reduction='sum' and divide by one constant",
    reference="pytorch/pytorch#72047",
)
def weighted_mean(case: Case) -> Iterator[Claim]:
    """With class weights, `mean` divides by the sum of the weights of this batch's targets.

    Not by the number of items: an item of a rare class weighs less in a batch that has many of
    them. Over several micro-batches, a mean of such means is not the weighted mean of all.

    Evidence: the recorded total weight, against the number of items and between calls.

    Silent: without class weights, or when all of them are 1.
    """
    seen: dict[tuple[str, int], list[tuple[Account, Row]]] = {}
    for account in case.accounts:
        for row in account.rows:
            last = row.reductions[-1] if row.reductions else None
            if last is not None and last.kind == "weighted-mean" and last.denominator is not None:
                seen.setdefault(case.line(last.source), []).append((account, row))
    for found in seen.values():
        account, row = found[0]
        last = row.reductions[-1]
        denominators = sorted({float(r.reductions[-1].denominator or 0) for _, r in found})
        if denominators == [float(row.items)]:
            continue
        span = f"{said(denominators[0])} to {said(denominators[-1])}"
        divisor = said(last.denominator) if len(denominators) == 1 else f"{span}, as the batch is"
        yield Claim(
            f"the mean is weighted by class: {row.items:,} items are divided by the sum of their "
            f"weights, {divisor}",
            last.source,
            sorted({b for a, _ in found for b in a.buffers}),
            None,
            [Proof(f"call {r.number}: {r.items} items over {said(r.reductions[-1].denominator)}",
                   r.reductions[-1].source) for _, r in found],
            sorted({step for a, _ in found for step in a.steps}),
            case.looked_at(account),
        )  # fmt: skip


# Divided twice.


@check(
    "double-division",
    severity="warning",
    section=SECTION,
    remedy="divide once: take out one of the two",
    reference="huggingface/accelerate#3533",
)
def double_division(case: Case) -> Iterator[Claim]:
    """The loss or its gradient is divided by the same count twice, by the user and by a library.

    Accumulating over k calls, both the script and the library divide by k; or a mean over the batch
    is divided by the batch size once more. All of the gradient is 1/k of what it should be.

    Evidence: two divisors in series, both equal to the calls of the window or to the items of the
    batch, and the weights of all items together come to one over that count. Or a mean over the
    batch, and a learning rate that is a round number divided by the same batch and not to be
    written otherwise (0.1 / 64 = 0.0015625); a note with 0.1 / 32, and under Adam.

    Silent: when the divisors mean different things (the micro-batches and their items: some window
    has as many calls as a batch has items), when a multiplication cancels one, for an average
    over losses that were added, and where the learning rate changes.
    """
    yield from _divided_by_lr(case)
    for account in case.accounts:
        rows = [row for rows in terms_of(account) for row in rows]
        if not rows or not account.steps or not all(is_known(row) for row in rows):
            continue
        calls = len({row.call for row in rows})
        items = max(row.items for row in rows)
        whole = total([call_total(rows, call) for call in {row.call for row in rows}])
        samples = max(row.samples.count if row.samples else row.items for row in rows)
        for count in dict.fromkeys((calls, items, samples)):
            each = whole if count == calls else whole / calls
            if count > (1 if count == calls else 2) and is_same(each, Fraction(1, count)):
                if count != calls and _makes_calls(case, account, rows[0].call, count):
                    continue
                twice = _divisions(case, rows[0], count, is_items=count != calls)
                if len(twice) > 1:
                    yield _divided_twice(case, account, twice, count, count != calls)
                    break


def _divided_by_lr(case: Case) -> Iterator[Claim]:
    """A mean over the batch whose learning rate was divided by the batch as well."""
    rates: dict[int, set[float]] = {}
    for step in case.trace.steps:
        for group in step.groups:
            rates.setdefault(step.optimizer, set()).add(float(group.get("lr", 0.0)))
    for account in case.accounts:
        optimizer = account.optimizer
        rows = [row for rows in terms_of(account) for row in rows]
        if optimizer is None or optimizer.lr is None or not account.steps or not rows:
            continue
        if len(rates.get(account.owner, ())) != 1 or not all(is_known(row) for row in rows):
            continue
        if len({row.term for row in rows}) > 1:
            continue
        items, whole = _batch_of([row for row in rows if row.call == rows[0].call])
        if not is_same(whole, Fraction(1)):
            continue
        saved = _digits(optimizer.lr) - _digits(optimizer.lr * items)
        if items < 2 or saved < DIVIDED_MAYBE or _digits(optimizer.lr * items) > MOST_DIGITS:
            continue
        is_sure = saved >= DIVIDED and not optimizer.is_adaptive
        yield Claim(
            f"divided twice by {items}, the items of the batch: the loss is a mean, and the "
            f"learning rate {_g(optimizer.lr)} is {_g(optimizer.lr * items)} / {items}",
            _divided_at(rows[0], items),
            account.buffers,
            Fraction(1, items),
            [
                Proof("the items of a call weigh 1 together", _divided_at(rows[0], items)),
                Proof(
                    f"lr {_g(optimizer.lr)} = {_g(optimizer.lr * items)} / {items}",
                    account.ledger.step.source if account.ledger.step else None,
                    Fraction(1, items),
                ),
            ],
            account.steps,
            case.looked_at(account),
            "warning" if is_sure else "note",
            f"divide once: sum the loss, or use the learning rate {_g(optimizer.lr * items)}",
        )


def _batch_of(rows: list[Row]) -> tuple[int, Exact]:
    """The samples of a call, or its items, and what they weigh together."""
    first = rows[0]
    if len(rows) == 1 and first.samples is not None and first.weight_at_loss and first.weight:
        later = first.weight / first.weight_at_loss
        return first.samples.count, size(first.samples.weight * first.samples.count * later)
    return sum(row.items for row in rows), call_total(rows, first.call)


DIVIDED, DIVIDED_MAYBE, MOST_DIGITS = 4, 3, 1
"""How many digits a learning rate loses when the division by the batch is undone, and has then."""


def _divided_at(row: Row, items: int) -> int | None:
    """The line that divides by the items, or else that of the last reduction."""
    found = [f.source for f in row.loss if is_same(f.value, Fraction(1, items))]
    last = row.reductions[-1].source if row.reductions else row.term.source
    return found[0] if found else last


def _makes_calls(case: Case, account: Account, call: int, count: int) -> bool:
    """Whether a window of the optimizer has so many calls of a line, used or thrown away."""
    line = case.event_source(call)
    return any(
        sum(made.source == line for made in kind.first.calls) == count
        for kind in case.kinds
        if kind.first.step.optimizer == account.owner
    )


def _divisions(case: Case, row: Row, count: int, *, is_items: bool) -> list[Factor]:
    """What divides by the count: a mean over the items too, if it is the items that are meant.

    These may be samples of several elements, over all of which the mean is.
    """
    found = []
    value = Fraction(1, count)
    is_of_samples = is_items and row.samples is not None and row.samples.count == count
    means = (value, Fraction(1, row.items)) if is_of_samples else (value,)
    for factor in (*row.loss, *row.after):
        is_mean = factor.kind == "reduction" and is_items
        if not any(is_same(factor.value, one) for one in (means if is_mean else (value,))):
            continue
        text = case.text(factor.source)
        is_division = factor.kind == "scale" and ("/" in text or "div" in text or not text)
        if is_mean or is_division or factor.kind == "edit":
            found.append(factor)
    return found


def _divided_twice(
    case: Case, account: Account, twice: list[Factor], count: int, is_items: bool
) -> Claim:
    unit = "items" if account.rows[0].items == count else "samples"
    what = f"the {count} {unit} of the batch" if is_items else f"the {count} calls of the window"
    divisions = [factor for factor in twice if factor.kind != "reduction"]
    placed = [factor for factor in divisions or twice if factor.source is not None]
    return Claim(
        f"divided twice by {count}, {what}: the gradient is 1/{count} of the mean",
        (placed[-1] if placed else twice[-1]).source,
        account.buffers,
        Fraction(1, count),
        [Proof(factor.words, factor.source, factor.value) for factor in twice],
        account.steps,
        case.looked_at(account),
    )
