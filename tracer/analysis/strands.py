"""From the root of a backward call down to the items of its losses, factor by factor.

A strand is a gradient whose elements all have one known weight: d(root)/d(element). It begins at a
root and is followed through additions, scalings and reductions. Where it ends, at the derivative of
a loss or at the network, its elements are the items, and what it passed is why they weigh what they
weigh. Each weight is the product of what the rules say, and must agree with what was measured.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from tracer.analysis.callfacts import CallFacts, Sent, Tensor
from tracer.analysis.exact import DOUBLE, is_rough, is_zero, product, rounding, tidy, total
from tracer.analysis.network import Network, is_above_leaf
from tracer.analysis.strand import Ended, Factor, Reduction, Strand, joined, merged
from tracer.events import SMALL, Measurement, Shape
from tracer.semantics.effects import (
    Averages,
    Broadcasts,
    Effect,
    Elementwise,
    Exact,
    Gathers,
    LossReduction,
    Moves,
    Nothing,
    Opaque,
    Replicates,
    Scales,
    ScatterAdds,
    Scatters,
    Selects,
)

__all__ = ["OPAQUE", "follow"]

SUMS_OF_TWO = ("AddBackward", "SubBackward", "RsubBackward", "NegBackward")
MASKING = ("MulBackward", "WhereBackward", "MaskedFillBackward")
MOST_STRANDS = 256
MASKED = "a mask picks from items of different weights"
OPAQUE = "passes an opaque node"
HOOKED = "a hook changed the gradient on the way, not by a factor"


def follow(
    facts: CallFacts, network: Network, starts: dict[int, list[Strand]] | None = None
) -> list[Ended]:
    """Every strand of a call, to its end. `starts` are those that enter at roots, by position."""
    return _Walk(facts, network).walk(starts or {})


class _Walk:
    """Visits the nodes above the items, senders before receivers."""

    def __init__(self, facts: CallFacts, network: Network) -> None:
        self._facts = facts
        self._network = network
        self._arrived: dict[int, dict[int, list[Strand]]] = {}
        self._unit: Exact | None = None
        """What one element has at the node that is visited, all strands together."""
        self._beside: list[Strand] = []
        self._known: set[int] = set()
        self._partly: set[int] = set()
        self._ended: dict[tuple[int, int], Ended] = {}

    def walk(self, starts: dict[int, list[Strand]]) -> list[Ended]:
        for position in range(len(self._facts.layout.roots)):
            root = self._facts.layout.roots[position]
            strands = starts.get(position)
            self._arrive(root.node, root.input, strands or [self._start(position)])
        for node in self._facts.order:
            inputs = self._arrived.pop(node, None)
            if inputs:
                self._visit(node, inputs)
        return joined(list(self._ended.values()), self._facts)

    def _arrive(self, node: int, place: int, strands: list[Strand]) -> None:
        self._arrived.setdefault(node, {}).setdefault(place, []).extend(strands)

    def _start(self, position: int) -> Strand:
        root = self._facts.layout.roots[position]
        tensor = self._facts.tensor(root.form, root.gradient)
        value = _uniform(tensor.measured)
        unknown = "" if value is not None else "the gradient at the root differs between items"
        if tensor.measured is None:
            unknown = "the gradient at the root was not measured"
        strand = Strand(value, value, tensor.elements, unknown=unknown)
        if value is not None and value != 1:
            words = "backward was given this gradient"
            strand = replace(
                strand, factors=(Factor("start", value, words, self._facts.call.source),)
            )
        if tensor.elements > 1:
            shape, source = tensor.form.shape, self._facts.call.source
            words = f"sum over {tensor.elements} roots"
            reduction = Reduction(
                "sum", tensor.elements, -1, root.name, (), shape, source, words, "backward"
            )
            strand = replace(strand, reductions=(reduction,))
        return strand

    def _visit(self, node: int, inputs: dict[int, list[Strand]]) -> None:
        received = self._facts.received.get(node, {})
        strands: list[Strand] = []
        is_alone = self._is_covered(node)
        for place, arrived in inputs.items():
            tensor = received.get(place)
            if tensor is not None:
                found = merged(arrived, tensor.elements)
                strands += self._settled(node, place, tensor, found) if is_alone else found
        elements = sum(tensor.elements for tensor in received.values())
        leaving = self._facts.leaving.get(node, [])
        strands = merged(strands, elements) if len(inputs) > 1 else strands
        self._unit, self._beside = _unit(strands, elements), strands
        for strand in strands:
            if not leaving:
                self._end(node, strand)
            elif is_alone:
                self._pass_on(node, strand, leaving, elements)
            else:
                for sent in leaving:
                    self._end(node, strand, sent)

    def _is_covered(self, node: int) -> bool:
        """Whether all that arrived at a node is known: nothing came from below other items."""
        arriving = self._facts.arriving.get(node, ())
        return all(
            (s.number in self._known and s.number not in self._partly) or _is_nothing(s.tensor)
            for s in arriving
        )

    def _settled(
        self, node: int, place: int, tensor: Tensor, strands: list[Strand]
    ) -> list[Strand]:
        """The strands as the node received them: after its hooks, and as was measured."""
        changed = self._facts.changed(node, place)
        measured = tensor.measured
        if changed is None and measured is not None and not measured.nonfinite:
            return [replace(s, unknown=s.unknown or HOOKED) for s in strands]
        if changed is not None and changed != 1:
            rough = is_rough(changed, tensor.form.dtype)
            factor = Factor("hook", changed, "hook", self._facts.node(node).source, True, rough)
            strands = [strand.scaled(factor) for strand in strands]
        if measured is not None and tensor.elements == 1 and len(strands) == 1:
            strands = [_recovered(strands[0], measured)]
        if _disagrees(strands, tensor):
            why = "what was measured differs from what the rules say"
            return [replace(s, unknown=s.unknown or why) for s in strands]
        return strands

    def _pass_on(self, node: int, strand: Strand, leaving: list[Sent], elements: int) -> None:
        """To each receiver, or to none where one of several parts comes to its end here."""
        onward = [self._beyond(node, strand, sent, elements) for sent in leaving]
        are_parts = any(sent.tensor.elements < elements for sent in leaving) and all(
            isinstance(self._facts.effect(sent), Moves) for sent in leaving
        )
        if are_parts and None in onward:
            onward = [None] * len(leaving)
        for sent, beyond in zip(leaving, onward, strict=True):
            effect = self._facts.effect(sent)
            if isinstance(effect, Nothing):
                continue
            if isinstance(effect, LossReduction):
                self._end_at_loss(node, strand, sent, effect)
            elif beyond is None:
                closed = _closed(strand, effect, self._facts, node)
                if self._unit is None and isinstance(effect, Selects | ScatterAdds):
                    closed = replace(closed, unknown=closed.unknown or MASKED)
                self._end(node, closed, sent)
            else:
                self._known.add(sent.number)
                if beyond.live or not are_parts:
                    self._arrive(sent.edge.receiver, sent.edge.input, [beyond])

    def _beyond(self, node: int, strand: Strand, sent: Sent, elements: int) -> Strand | None:
        """The strand behind a node along one edge; None where it ends."""
        effect = self._facts.effect(sent)
        if len(strand.reductions) >= MOST_STRANDS or not self._may_pass(node, sent):
            return None
        return self._through(node, strand, sent, effect, elements)

    def _may_pass(self, node: int, sent: Sent) -> bool:
        """Inside the network only what leads to a scalar belongs to a loss."""
        if not self._network.has(self._facts.node(node).module):
            return True
        received = self._facts.received.get(node, {})
        return sent.tensor.elements == 1 or all(t.form.shape == () for t in received.values())

    def _through(
        self, node: int, strand: Strand, sent: Sent, effect: Effect, elements: int
    ) -> Strand | None:
        """The strand on the other side of a node; None where it ends."""
        if isinstance(effect, Averages | Broadcasts):
            return self._through_reduction(node, strand, sent, effect, elements)
        if isinstance(effect, Scales) and effect.then_sums == 1:
            return self._through_scaling(node, strand, sent, effect, elements)
        if isinstance(effect, Replicates):
            return strand if sent.tensor.elements == elements else None
        if isinstance(effect, Moves | Gathers | Scatters):
            return _moved(strand, sent, elements, self._unit, self._beside)
        is_masking = self._facts.node(node).name.startswith(MASKING)
        if isinstance(effect, Selects | ScatterAdds) or (
            isinstance(effect, Elementwise) and is_masking and elements > 1
        ):
            return self._through_mask(strand, sent, effect)
        is_number = isinstance(effect, Elementwise) or (
            isinstance(effect, Opaque) and sent.tensor.elements == 1
        )
        if is_number and elements == 1 and self._may_be_function(node, strand):
            return self._through_function(node, strand, sent)
        return None

    def _may_be_function(self, node: int, strand: Strand) -> bool:
        """Whether this is a function of a loss, not of the single item of a batch of one."""
        return not strand.reductions or self._is_number(node)

    def _is_number(self, node: int) -> bool:
        received = self._facts.received.get(node, {})
        return all(tensor.form.shape == () for tensor in received.values())

    def _through_reduction(
        self, node: int, strand: Strand, sent: Sent, effect: Averages | Broadcasts, elements: int
    ) -> Strand | None:
        if effect.over < 1 or sent.tensor.elements != elements * effect.over:
            return None
        facts, kind = self._facts.node(node), "mean" if isinstance(effect, Averages) else "sum"
        received = next(iter(self._facts.received[node].values())).form.shape
        reduction = Reduction(
            kind, effect.over, node, facts.name, received, sent.tensor.form.shape, facts.source,
            effect.words, facts.called,
        )  # fmt: skip
        return strand.reduced(effect.factor, strand.live * effect.over, reduction)

    def _through_scaling(
        self, node: int, strand: Strand, sent: Sent, effect: Scales, elements: int
    ) -> Strand | None:
        name = self._facts.node(node).name
        if sent.tensor.elements != elements:
            return None
        if not name.startswith(SUMS_OF_TWO):
            if len(self._facts.outgoing[node]) > 1:
                # Both operands have a gradient: not a constant, but a number of the model's own.
                is_scalar = elements == 1 and self._may_be_function(node, strand)
                return self._through_function(node, strand, sent) if is_scalar else None
            if is_above_leaf(self._facts, sent.edge.receiver):
                return None
            is_number = self._is_number(node)
            is_said = _is_count(name, effect.by) or self._has_no_dimensions(node, sent)
            if elements == 1 and strand.reductions and not is_said:
                # A batch of one: the factor may as well be data. A number: counts if it is reduced.
                return self._through_function(node, strand, sent) if is_number else None
        by = effect.by if isinstance(effect.by, Fraction) else tidy(effect.by, DOUBLE)
        factor = Factor("scale", by, effect.words, self._facts.node(node).source)
        if name.startswith(SUMS_OF_TWO) and strand.reductions:
            # The sign of an operand is part of the item, unless the operand is reduced in turn.
            return strand.passed(product((strand.now, by)), factor)
        return strand.scaled(factor)

    def _has_no_dimensions(self, node: int, sent: Sent) -> bool:
        """Whether what was multiplied with is a number by its form, and no batch of one."""
        operand = "other" if sent.edge.output == 0 else "self"
        return self._facts.saved(node).get(f"{operand}_dims") == 0

    def _through_function(self, node: int, strand: Strand, sent: Sent) -> Strand | None:
        """A function of one number: its derivative is what was measured."""
        measured, before = sent.tensor.measured, strand.now
        if measured is None or measured.nonfinite or sent.tensor.elements > SMALL:
            return None
        now = _uniform(measured)
        value = None
        if now is not None and before:
            value = tidy(float(now) / float(before))
        facts = self._facts.node(node)
        name = facts.custom.rpartition(".")[2] or facts.name.partition("Backward")[0].lower()
        kind = "opaque" if facts.custom else "measured"
        passed = strand.passed(now, Factor(kind, value, name, facts.source, True))
        return replace(passed, live=sent.tensor.elements)

    def _through_mask(self, strand: Strand, sent: Sent, effect: Effect) -> Strand | None:
        """Where a mask of zeros and ones lets some elements pass."""
        measured = sent.tensor.measured
        if measured is None or is_above_leaf(self._facts, sent.edge.receiver):
            return None
        kept = _counted(measured, self._unit, sent.tensor.form.dtype)
        if kept is None or kept > strand.live:
            return None
        if isinstance(effect, ScatterAdds) and kept != strand.live:
            return None
        return replace(strand, live=kept, masked=strand.masked + strand.live - kept)

    def _end_at_loss(self, node: int, strand: Strand, sent: Sent, effect: LossReduction) -> None:
        """A fused loss: its reduction, if it has one, and the items are told by its rule."""
        facts, measured = self._facts.node(node), sent.tensor.measured
        if effect.reduction != "none":
            received = next(iter(self._facts.received[node].values())).form.shape
            items = effect.items or 0
            kind = "weighted-mean" if effect.reduction == "weighted-mean" else effect.reduction
            reduction = Reduction(
                kind, items, node, facts.name, received, _items_shape(sent, items), facts.source,
                effect.words, facts.called, _denominator(effect),
            )  # fmt: skip
            strand = strand.reduced(effect.factor, strand.live * items, reduction)
            if effect.over == 0:
                # Nothing to average: 0/0, and no gradient for anybody.
                strand = replace(strand, live=0, masked=items)
            elif effect.factor is None:
                strand = replace(strand, unknown=strand.unknown or "the denominator is not known")
        if facts.name.startswith("NllLoss"):
            strand = _without_ignored(strand, measured, sent.tensor.form.dtype)
        self._end(node, strand, sent, measured)

    def _end(
        self, node: int, strand: Strand, sent: Sent | None = None,
        measured: Measurement | None = None,
    ) -> None:  # fmt: skip
        if strand.since and not strand.reductions:
            hidden = next((f.words for f in strand.since if f.kind == "opaque"), "")
            unknown = strand.unknown or (hidden and f"{OPAQUE} ({hidden}): factor unknown")
            strand = replace(strand, live=1, unknown=unknown)
        if not strand.reductions and self._is_born_here(node, sent):
            name = self._facts.node(node).name.partition("Backward")[0].lower()
            why = f"the gradient is not finite any more after {name}"
            strand = replace(strand, unknown=strand.unknown or why)
        key = (node, hash(strand))
        ended = self._ended.setdefault(key, Ended(strand, node, measured=measured))
        if sent is not None:
            ended.edges.add(sent.number)
            self._partly.add(sent.number)

    def _is_born_here(self, node: int, sent: Sent | None) -> bool:
        """Whether the gradient of a number stopped being finite in this node."""
        after = sent.tensor.measured if sent is not None else None
        received = [t.measured for t in self._facts.received.get(node, {}).values()]
        is_finite = all(m is not None and not m.nonfinite for m in received)
        return after is not None and after.nonfinite > 0 and is_finite and self._is_number(node)


def _unit(strands: list[Strand], elements: int) -> Exact | None:
    """The weight of an element that any strand reaches; None where that differs."""
    if len(strands) == 1:
        return strands[0].now
    known = [s.now for s in strands if s.now is not None and s.live == elements]
    return total(known) if len(known) == len(strands) else None


def _is_nothing(tensor: Tensor) -> bool:
    return tensor.measured is not None and is_zero(tensor.measured)


def _uniform(measured: Measurement | None) -> Exact | None:
    """The one value of every element, None where they differ or were not measured."""
    if measured is None or measured.nonfinite or isinstance(measured.sum, complex):
        return None
    if measured.elements == 0 or not (measured.is_uniform or measured.largest == 0):
        return None
    values = measured.values
    if values and not isinstance(values[0], complex):
        return tidy(values[0])
    return tidy(measured.sum / measured.elements, 2e-6)


def _counted(measured: Measurement, weight: Exact | None, dtype: str) -> int | None:
    """How many elements have this weight, if all others are zero."""
    if weight is None or weight == 0 or measured.nonfinite or isinstance(measured.sum, complex):
        return None
    value, near = abs(float(weight)), max(2e-4, rounding(dtype))
    if measured.largest == 0:
        return 0
    count = round(abs(measured.sum) / value)
    is_mask = (
        abs(measured.largest - value) <= near * value
        and abs(abs(measured.sum) - count * value) <= near * value * max(count, 1)
        and abs(measured.norm**2 - count * value**2) <= 2 * near * value**2 * max(count, 1)
    )
    return count if is_mask else None


def _recovered(strand: Strand, measured: Measurement) -> Strand:
    """A strand whose elements differed comes to a single one, which was measured."""
    if strand.now is not None or not strand.since or measured.nonfinite:
        return strand
    return replace(strand, now=_uniform(measured), live=1)


def _moved(
    strand: Strand, sent: Sent, elements: int, unit: Exact | None, beside: list[Strand]
) -> Strand | None:
    """The strand after the same numbers went elsewhere, whole or in parts."""
    tensor, is_full = sent.tensor, strand.live == elements
    if tensor.elements == elements or (tensor.elements > elements and is_full):
        return strand
    part = (*strand.part, (sent.edge.sender, sent.edge.output))
    if is_full:
        return replace(strand, live=tensor.elements, part=part)
    if tensor.measured is None:
        return None
    if unit is not None:
        kept = _counted(tensor.measured, unit, tensor.form.dtype)
    else:
        kept = _told_apart(strand, beside, tensor, elements)
    return None if kept is None or kept > strand.live else replace(strand, live=kept, part=part)


def _told_apart(strand: Strand, beside: list[Strand], tensor: Tensor, elements: int) -> int | None:
    """How much of a strand is in a part, if the weights of all strands tell whose part it is."""
    weights = [other.now for other in beside]
    is_disjoint = sum(other.live for other in beside) <= elements
    if tensor.measured is None or not is_disjoint or len(set(weights)) < len(weights):
        return None
    counts = [_counted(tensor.measured, weight, tensor.form.dtype) for weight in weights]
    if sum(count is not None for count in counts) != 1:
        return None
    own = counts[beside.index(strand)]
    return 0 if own is None else own


def _disagrees(strands: list[Strand], tensor: Tensor) -> bool:
    """Whether the sum of a measured gradient is not that of its strands."""
    measured = tensor.measured
    if measured is None or measured.nonfinite or isinstance(measured.sum, complex):
        return False
    if any(s.now is None or s.unknown for s in strands):
        return False
    parts = [(float(s.now), s.live) for s in strands if s.now is not None]
    expected = sum(now * live for now, live in parts)
    scale = sum(abs(now) * live for now, live in parts)
    near = max(2e-4, rounding(tensor.form.dtype))
    if abs(expected - measured.sum) > near * scale:
        return True
    # Of parts put together: whether they are different ones. Several strands may overlap.
    is_partial = len(strands) == 1 and strands[0].live < tensor.elements
    squares = sum(now**2 * live for now, live in parts)
    return is_partial and abs(squares - measured.norm**2) > 4 * near * squares


def _is_count(name: str, by: Exact) -> bool:
    """Whether this is a division by a whole number, as one divides by a count."""
    inverse = 1 / by if by else Fraction(0)
    return name.startswith("DivBackward") and inverse == int(inverse)


def _closed(strand: Strand, effect: Effect, facts: CallFacts, node: int) -> Strand:
    """The end of a strand; in front of an opaque function of one number nothing is known."""
    shapes = [tensor.form.shape for tensor in facts.received.get(node, {}).values()]
    if isinstance(effect, Opaque) and all(shape == () for shape in shapes):
        name = facts.node(node).custom.rpartition(".")[2] or facts.node(node).name
        why = f"{OPAQUE} ({name}): factor unknown"
        return replace(strand, unknown=strand.unknown or why)
    return strand


def _denominator(effect: LossReduction) -> Exact | None:
    return None if effect.over is None else tidy(float(effect.over))


def _items_shape(sent: Sent, items: int) -> Shape:
    """The shape of the items of a fused loss: that of its operands, without the classes."""
    shape = sent.tensor.form.shape
    if sent.tensor.elements == items or len(shape) < 2:
        return shape if sent.tensor.elements == items else (items,)
    without = (shape[0], *shape[2:])
    count = 1
    for size in without:
        count *= size
    return without if count == items else (items,)


def _without_ignored(strand: Strand, measured: Measurement | None, dtype: str) -> Strand:
    """Targets that were ignored got nothing."""
    kept = None if measured is None else _counted(measured, strand.now, dtype)
    if kept is None or kept >= strand.live:
        return strand
    return replace(strand, live=kept, masked=strand.masked + strand.live - kept)
