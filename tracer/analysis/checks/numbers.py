"""Checks of the numbers themselves: not finite, vanishing, exploding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from tracer.analysis.callfacts import CallFacts, Tensor
from tracer.analysis.chain import Link, chain_of
from tracer.analysis.checks.case import Account, Case
from tracer.analysis.checks.finding import Claim, Proof, Severity
from tracer.analysis.checks.registry import check
from tracer.analysis.checks.traits import depths
from tracer.analysis.exact import tidy
from tracer.events import Call, Edit, Measurement
from tracer.tracefile import NONFINITE

SECTION = "Precision, clipping, hooks, optimizer"
SINGULAR = (
    "Log", "Sqrt", "Rsqrt", "Div", "Reciprocal", "Acos", "Asin", "Atanh", "Acosh", "Norm",
    "LinalgVectorNorm", "Std", "Cdist", "EuclideanDist", "Logit", "BinaryCrossEntropyBackward",
)  # fmt: skip
"""Operations with an infinite derivative at a finite value."""

SMALL, LARGE = 1e-5, 1e5
"""Of the norm where the gradient leaves the model, over that where it enters."""
FEWEST_LINKS = 6
MOST_NODES = 3000


@check(
    "nonfinite",
    severity="error",
    section=SECTION,
    remedy="keep it away from where its derivative is infinite: add an epsilon, or clamp",
)
def nonfinite(case: Case) -> Iterator[Claim]:
    """The first NaN or infinity of the run, where it was born and not where it was seen.

    One NaN in one place is NaN everywhere a moment later, so the place that matters is the first.

    Evidence: an operation whose gradient came in finite and went out not finite. If the loss itself
    is not finite, it was born in the forward pass, and this says so.

    Silent: when everything is finite. A note if a GradScaler left the step out: this is how it
    finds its scale.
    """
    told = False
    for call in case.trace.calls:
        if not case.trace.nonfinite(call) or (told and _is_skipped(case, call)):
            continue
        if any(f.check == "empty-reduction" and f.step == call.step for f in case.found):
            return  # its cause is told already
        facts = case.call(call.order)
        severity: Severity = "note" if _is_skipped(case, call) else "error"
        claim = _born(case, call, facts, severity)
        if claim is not None:
            yield claim
            told = True
            if severity == "error":
                return


def _is_skipped(case: Case, call: Call) -> bool:
    """Whether the next step after a call was left out by a GradScaler."""
    for event in case.trace.events:
        if event.order > call.order and isinstance(event, Edit) and event.kind == "step_skipped":
            return event.step == call.step
    return False


def _born(case: Case, call: Call, facts: CallFacts, severity: Severity) -> Claim | None:
    looked = len({c.step for c in case.trace.calls})
    number = case.numbers[call.order]
    first = _first(facts)
    for root in facts.layout.roots:
        value = facts.tensor(root.form, root.value).measured if root.value is not None else None
        if value is not None and value.nonfinite:
            source = facts.node(root.node).source
            proofs = [Proof("the loss is not finite", source), Proof("backward", call.source)]
            born = _singular_at(facts, first)
            if born is not None:
                source = facts.node(born).source
                proofs.insert(0, Proof(f"{_called(facts, born)}, of a value it has no finite "
                                       "derivative at", source))  # fmt: skip
            return Claim(
                f"the loss of backward call {number} is not finite: it was so in the forward pass "
                "already",
                source if source is not None else call.source,
                sorted(facts.writers),
                None,
                proofs,
                [call.step],
                looked,
                severity,
                "look at what goes into this loss: a log or a division of 0, or weights that are "
                "not finite already",
            )
    if first is None:
        return None
    received = [t.measured for t in facts.received.get(first, {}).values()]
    bad = max((s.tensor for s in facts.leaving[first]), key=_count)
    count, source = _count(bad), facts.node(first).source
    values = f"{count:,} value{'' if count == 1 else 's'}"
    return Claim(
        f"{_called(facts, first)} turns a finite gradient into {values} that "
        f"{'is' if count == 1 else 'are'} not finite, in backward call {number}",
        source if source is not None else call.source,
        sorted(facts.writers),
        None,
        [
            Proof(f"received: {_norm(received)}", source),
            Proof(f"sent: {count:,} of {bad.elements:,} not finite", source),
        ],
        [call.step],
        looked,
        severity,
    )


def _first(facts: CallFacts) -> int | None:
    """The first node that received finite gradients and sent others."""
    for node in _suspects(facts):
        is_bad = any(_count(sent.tensor) for sent in facts.leaving.get(node, ()))
        if is_bad and not any(_count(t) for t in facts.received.get(node, {}).values()):
            return node
    return None


def _suspects(facts: CallFacts) -> Iterable[int]:
    """The nodes among which it is; of a large call those that sent what is not finite."""
    wiring = facts.wiring
    if wiring is None:
        return facts.order
    counts = facts.measured.column(NONFINITE)
    bad = {
        sender
        for sender, row in zip(wiring.sender, wiring.row, strict=True)
        if row >= 0 and counts[row]
    }
    return [node for node in facts.order if node in bad] if bad else ()


def _count(tensor: Tensor) -> int:
    return tensor.measured.nonfinite if tensor.measured is not None else 0


def _called(facts: CallFacts, index: int) -> str:
    node = facts.node(index)
    return node.called or node.custom.rpartition(".")[2] or node.name


def _singular_at(facts: CallFacts, first: int | None) -> int | None:
    """The singular operation that loses a gradient: the first one, or just below it (p log p)."""
    if first is None:
        return None
    if _is_singular(facts, first):
        return first
    below = [sent.edge.receiver for sent in facts.leaving.get(first, ())]
    return next((node for node in below if _is_singular(facts, node) and _loses(facts, node)), None)


def _loses(facts: CallFacts, node: int) -> bool:
    return any(_count(sent.tensor) for sent in facts.leaving.get(node, ()))


def _is_singular(facts: CallFacts, node: int) -> bool:
    """Whether a node has an infinite derivative at a finite value."""
    name = facts.node(node).name
    exponent = facts.saved(node).get("exponent")
    is_root = name.startswith("PowBackward0") and isinstance(exponent, int | float) and exponent < 1
    return is_root or name.startswith(SINGULAR)


def _norm(measured: Sequence[Measurement | None]) -> str:
    known = [one.norm for one in measured if one is not None]
    return f"norm {known[0]:.4g}" if known else "finite"


def _chains(case: Case) -> Iterator[tuple[Account, int, list[Link]]]:
    """For the first window: the parameter that lies furthest from the loss, and the way to it."""
    for account in case.accounts[:1]:
        same = [a for a in case.accounts if a.kind is account.kind]
        calls = [entry.call for entry in account.fresh if entry.call is not None]
        if not calls:
            return
        facts = case.call(calls[-1])
        if len(facts.order) > MOST_NODES:
            return  # the chain is quadratic in its depth
        depth = depths(facts)
        buffers = [b for a in same for b in a.buffers if b in facts.writers]
        if not buffers:
            return
        last = max(buffers, key=lambda b: depth.get(facts.writers[b], -1))
        links = [
            link
            for link in chain_of(facts, _first_use(facts, facts.writers[last], depth))
            if link.norm and case.is_in_network(facts, link.node)
        ]
        yield account, last, links


def _first_use(facts: CallFacts, writer: int, depth: Mapping[int, int]) -> int:
    """Of a parameter that is used again and again, as in a recurrent net, the deepest use.

    All that its whole gradient passes is what lies above its last use.
    """
    senders = [sent.edge.sender for sent in facts.arriving.get(writer, ())]
    return max(senders, key=lambda node: depth.get(node, -1)) if len(senders) > 1 else writer


def _ratio_claims(case: Case, *, falls: bool) -> Iterator[Claim]:
    for account, buffer, links in _chains(case):
        if len(links) < FEWEST_LINKS:
            continue
        first, last = links[0], links[-1]
        assert first.norm is not None
        assert last.norm is not None
        ratio = last.norm / first.norm
        if not math.isfinite(ratio) or not (ratio < SMALL if falls else ratio > LARGE):
            continue
        verb = "falls" if falls else "grows"
        steps = list(pairwise(links))
        worst = (min if falls else max)(
            steps, key=lambda pair: (pair[1].norm or 0) / (pair[0].norm or 1)
        )
        yield Claim(
            f"the gradient {verb} from {first.norm:.3g} at the end of the model to "
            f"{last.norm:.3g} at its beginning, {ratio:.1e} x",
            last.source,
            [buffer],
            tidy(ratio),
            [
                Proof(f"{first.name} {first.norm:.3g}", first.source),
                Proof(f"most at {worst[1].name} {worst[1].norm:.3g}", worst[1].source),
                Proof(f"{last.name} {last.norm:.3g}", last.source),
            ],
            account.steps[:1],
            0,
        )


@check(
    "vanishing",
    severity="note",
    section=SECTION,
    remedy="normalise, use skip connections, or another activation",
)
def vanishing(case: Case) -> Iterator[Claim]:
    """The gradient loses orders of magnitude on its way through the model; early layers stand
    still.

    Evidence: the norm where it leaves the model, of a recurrent one at its first step, is less than
    1e-5 of the norm where it enters.

    Silent: above that.
    """
    yield from _ratio_claims(case, falls=True)


@check(
    "exploding",
    severity="note",
    section=SECTION,
    remedy="normalise, start with smaller weights, or clip",
)
def exploding(case: Case) -> Iterator[Claim]:
    """The gradient gains orders of magnitude on its way through the model.

    Evidence: the norm where it leaves the model, of a recurrent one at its first step, is more than
    1e5 times the norm where it enters.

    Silent: below that.
    """
    yield from _ratio_claims(case, falls=False)
