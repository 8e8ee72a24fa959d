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
from tracer.analysis.exact import (
    DOUBLE,
    is_rough,
    is_zero,
    product,
    proportion,
    rounding,
    said,
    tidy,
    total,
)
from tracer.analysis.network import Network, is_above_leaf
from tracer.analysis.runs import Link, Runs, runs_of
from tracer.analysis.strand import (
    NOT_MEASURED,
    Ended,
    Factor,
    Reduction,
    Spread,
    Strand,
    is_off,
    joined,
    merged,
    spread_of,
    summed,
)
from tracer.events import SMALL, Measurement, Shape
from tracer.semantics.effects import (
    Averages,
    Broadcasts,
    Contracts,
    Distributes,
    Effect,
    Elementwise,
    Exact,
    Gathers,
    LossReduction,
    Moves,
    Nothing,
    Opaque,
    Reduces,
    Replicates,
    Scales,
    ScatterAdds,
    Scatters,
    Selects,
)

__all__ = ["OPAQUE", "follow"]

SUMS_OF_TWO = ("AddBackward", "SubBackward", "RsubBackward", "NegBackward")
MASKING = ("MulBackward", "WhereBackward", "MaskedFillBackward")
CONSTANT_TIMES = ("MulBackward", "DivBackward")
PRODUCTS = ("DotBackward", "VdotBackward", "MvBackward", "MmBackward", "BmmBackward")
OWN = "on average, each its own"
MOST_STRANDS = 256
MASKED = "a mask picks from items of different weights"
OPAQUE = "passes an opaque node"
OVERLAPPING = "some items are reached on several ways, others are not"
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
        runs = runs_of(self._facts, self._link)
        order, place = self._facts.order, 0
        while place < len(order):
            node = order[place]
            inputs = self._arrived.pop(node, None)
            if inputs and runs is not None:
                node, passed = self._pass_run(runs, node, inputs)
                place += passed
            if inputs:
                self._visit(node, inputs)
            place += 1
        return joined(list(self._ended.values()), self._facts)

    def _pass_run(self, runs: Runs, node: int, inputs: dict[int, list[Strand]]) -> tuple[int, int]:
        """Down a chain in which each node multiplies by a number: where it ends, and its length.

        What then is to be visited has arrived in the place of what had before.
        """
        strands = inputs[next(iter(inputs))]
        if len(inputs) > 1 or len(strands) > 1 or not self._is_covered(node):
            return node, 0
        run = runs.down(node, strands[0])
        if run is None:
            return node, 0
        self._known.add(run.number)
        inputs.clear()
        inputs[run.input] = [run.strand]
        return run.node, run.length

    def _arrive(self, node: int, place: int, strands: list[Strand]) -> None:
        self._arrived.setdefault(node, {}).setdefault(place, []).extend(strands)

    def _start(self, position: int) -> Strand:
        root = self._facts.layout.roots[position]
        tensor = self._facts.tensor(root.form, root.gradient)
        value = _uniform(tensor.measured)
        strand = Strand(value, value, tensor.elements)
        if value is None:
            strand = self._given(strand, tensor)
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

    def _given(self, strand: Strand, tensor: Tensor) -> Strand:
        """The start of a call that was given a gradient of unequal elements: their weights."""
        found = spread_of(tensor.measured)
        if tensor.measured is None:
            return replace(strand, unknown="the gradient at the root was not measured")
        if found is None:
            return replace(strand, unknown="the gradient at the root is not finite or not real")
        strand = replace(strand, varied=found, spread=found, live=found.count or strand.live)
        words = "on average, each its own: backward was given these"
        strand = strand.averaged()
        factor = Factor("own", strand.weight, words, self._facts.call.source, True)
        return replace(strand, masked=tensor.elements - strand.live, factors=(factor,))

    def _visit(self, node: int, inputs: dict[int, list[Strand]]) -> None:
        received = self._facts.received.get(node, {})
        strands: list[Strand] = []
        is_alone = self._is_covered(node)
        for place, arrived in inputs.items():
            tensor = received.get(place)
            if tensor is not None:
                if is_alone:
                    strands += self._settled(node, place, tensor, arrived)
                else:
                    strands += merged(arrived, tensor.elements)
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
        if len(strands) > 1:
            strands = merged(_met_again(strands, tensor), tensor.elements)
        if measured is not None and len(strands) == 1:
            strands = [_recovered(strands[0], measured)]
        if _disagrees(strands, tensor):
            why = "what was measured differs from what the rules say"
            return [replace(s, unknown=s.unknown or why) for s in strands]
        return strands

    def _pass_on(self, node: int, strand: Strand, leaving: list[Sent], elements: int) -> None:
        """To each receiver, or to none where one of several parts comes to its end here."""
        if self._is_sum_of_products(node, leaving, elements):
            for sent in leaving:
                self._end(node, self._of_products(node, strand, sent), sent)
            return
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
            elif beyond.reductions and not beyond.reductions[-1].over:
                self._end(node, beyond, sent)
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
        if all(t.form.shape == () for t in received.values()):
            return True
        is_moved = sent.tensor.elements == 1 and isinstance(self._facts.effect(sent), Moves)
        return is_moved and not is_above_leaf(self._facts, sent.edge.receiver)

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
        if isinstance(effect, Reduces) and effect.across == "ranks":
            return self._through_ranks(node, strand, sent)
        if isinstance(effect, Moves | Gathers | Scatters):
            return _moved(strand, sent, elements, self._unit, self._beside)
        is_masking = self._facts.node(node).name.startswith(MASKING)
        if isinstance(effect, Selects | ScatterAdds) or (
            isinstance(effect, Elementwise) and is_masking and elements > 1
        ):
            kept = self._through_mask(strand, sent, effect)
            kept = kept or self._through_choice(node, strand, sent, effect)
            return kept or self._through_own(node, strand, sent, effect, elements)
        if isinstance(effect, Elementwise | Contracts) and sent.tensor.elements > 1:
            passed = self._through_own(node, strand, sent, effect, elements)
            passed = passed or self._through_product(node, strand, sent, effect, elements)
            if passed is not None:
                return passed
        is_number = isinstance(effect, Elementwise) or (
            isinstance(effect, Opaque) and sent.tensor.elements == 1
        )
        if is_number and elements == 1 and self._may_be_function(node, strand):
            return self._through_function(node, strand, sent)
        return None

    def _through_ranks(self, node: int, strand: Strand, sent: Sent) -> Strand | None:
        """What all ranks sent back is added: of equal losses as many times as there are ranks."""
        received = list(self._facts.received.get(node, {}).values())
        if len(received) != 1 or received[0].elements != sent.tensor.elements:
            return None
        parts, whole = received[0].measured, sent.tensor.measured
        value = proportion([parts], whole) if parts is not None and whole is not None else None
        if not value:
            return None
        ranks = self._facts.ranks_at.get(node)
        words = f"added over {ranks:,} ranks" if ranks else "added over the ranks"
        return strand.scaled(Factor("scale", value, words, self._facts.node(node).source, True))

    def _may_be_function(self, node: int, strand: Strand) -> bool:
        """Whether this is a function of a loss, not of the single item of a batch of one."""
        return not strand.reductions or self._is_number(node)

    def _is_number(self, node: int) -> bool:
        received = self._facts.received.get(node, {})
        return all(tensor.form.shape == () for tensor in received.values())

    def _through_reduction(
        self, node: int, strand: Strand, sent: Sent, effect: Averages | Broadcasts, elements: int
    ) -> Strand | None:
        if sent.tensor.elements != elements * effect.over:
            return None
        facts, kind = self._facts.node(node), "mean" if isinstance(effect, Averages) else "sum"
        received = next(iter(self._facts.received[node].values())).form.shape
        reduction = Reduction(
            kind, effect.over, node, facts.name, received, sent.tensor.form.shape, facts.source,
            effect.words, facts.called,
        )  # fmt: skip
        if not effect.over:
            return _of_nothing(strand, reduction)
        return strand.reduced(effect.factor, effect.over, reduction)

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
            if strand.reductions and self._may_be_data(node, sent, effect):
                # A batch of one: the factor may as well be data. A number: counts if it is reduced.
                return self._through_function(node, strand, sent) if is_number else None
        by = _by(effect)
        source = self._facts.node(node).source
        if name.startswith(SUMS_OF_TWO) and by < 0 and self._is_part_of_item(node, strand):
            turned = Factor("sign", Fraction(-1), "sign turned", source)
            varied = strand.varied.times(-1) if strand.varied else None
            strand = strand.passed(product((strand.now, turned.value)), turned, varied)
            by = -by
            if by == 1:
                return strand
        return strand.scaled(Factor("scale", by, effect.words, source))

    def _may_be_data(self, node: int, sent: Sent, effect: Scales) -> bool:
        """Whether a factor may be that of the one item of a batch, and no number of the script."""
        if sent.tensor.elements != 1:
            return False
        name = self._facts.node(node).name
        return not _is_count(name, effect.by) and not self._has_no_dimensions(node, sent)

    def _link(self, node: int) -> Link | None:
        """What a node of a chain does to a strand whose elements weigh the same.

        None where it is not left as it is or multiplied by one number: see `_through`.
        """
        facts, (sent,) = self._facts.node(node), self._facts.leaving[node]
        (received,) = self._facts.received[node].values()
        effect, elements = self._facts.effect(sent), received.elements
        is_plain = not received.form.is_complex and sent.tensor.elements == elements
        if not is_plain or self._network.has(facts.module):
            return None
        near = max(2e-4, rounding(received.form.dtype))
        if isinstance(effect, Moves):
            return Link(None, elements, near)
        if not isinstance(effect, Scales) or effect.then_sums != 1:
            return None
        is_sum, by = facts.name.startswith(SUMS_OF_TWO), _by(effect)
        if is_sum and by < 0:
            return None
        may_be_data = not is_sum and self._may_be_data(node, sent, effect)
        return Link(Factor("scale", by, effect.words, facts.source), elements, near, may_be_data)

    def _is_part_of_item(self, node: int, strand: Strand) -> bool:
        """Whether a sign belongs to the item: `t - p` is one, `a - b` of two losses are two."""
        return bool(strand.reductions) and len(self._facts.outgoing[node]) == 1

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
        varied = spread_of(measured) if now is None else None
        made = strand.made or self._made_of(node, sent)
        return replace(passed, live=sent.tensor.elements, varied=varied, made=made)

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

    def _through_choice(
        self, node: int, strand: Strand, sent: Sent, effect: Effect
    ) -> Strand | None:
        """Where some elements of unequal weights are chosen: they keep theirs."""
        tensor = sent.tensor
        if strand.now is not None or strand.varied is None or len(self._beside) > 1:
            return None
        if is_above_leaf(self._facts, sent.edge.receiver) or tensor.measured is None:
            return None
        received = next(iter(self._facts.received[node].values()))
        if isinstance(effect, Elementwise) and not _is_chosen(received, tensor):
            return None
        now, varied = _weights_in(tensor.measured)
        if varied is None or varied.count is None:
            # Too many to be counted: the extremes are those of all that could be chosen.
            total = tensor.measured.sum
            if now is not None or isinstance(total, complex):
                return None
            varied, live = replace(strand.varied, total=total), strand.live
        else:
            live = varied.count
        if live > strand.live:
            return None
        masked = strand.masked + strand.live - live
        return replace(strand.picked(now, varied, live), masked=masked)

    def _through_own(
        self, node: int, strand: Strand, sent: Sent, effect: Effect, elements: int
    ) -> Strand | None:
        """Where each element is multiplied by a constant of its own: what was sent tells them."""
        name, tensor = self._facts.node(node).name, sent.tensor
        if not name.startswith(CONSTANT_TIMES) or not isinstance(effect, Elementwise):
            return None
        if tensor.elements != elements or elements < 2:
            return None
        if not self._is_of_constants(node, sent):
            return self._through_weights(node, strand, sent)
        now, varied = _weights_in(tensor.measured)
        if len(self._beside) > 1 or (now is None and varied is None):
            return None
        source, before = self._facts.node(node).source, strand.now
        if now is not None and before:
            return strand.scaled(Factor("scale", tidy(float(now) / float(before)), "", source))
        live = strand.live if varied is None or varied.count is None else varied.count
        live = min(live, strand.live)
        masked = strand.masked + strand.live - live
        found = replace(strand, now=now, varied=varied, live=live, masked=masked)
        own = Factor("own", _over(found.average, strand.average), OWN, source, True)
        found = found.passed(now, own, varied)
        # Who divides each item by a number of its own averages; a product may as well be data.
        return found.settled() if name.startswith("DivBackward") else found

    def _through_weights(self, node: int, strand: Strand, sent: Sent) -> Strand | None:
        """Numbers put into one tensor, and multiplied with what the model makes of itself."""
        receiver = sent.edge.receiver
        below = self._facts.leaving.get(receiver, ())
        is_stack = self._facts.node(receiver).name.startswith("StackBackward")
        if not is_stack or any(one.tensor.form.shape != () for one in below):
            return None
        now, varied = _weights_in(sent.tensor.measured)
        if len(self._beside) > 1 or (now is None and varied is None):
            return None
        found = replace(strand, now=now, varied=varied)
        value, facts = _over(found.average, strand.average), self._facts.node(node)
        name = facts.name.partition("Backward")[0].lower()
        return found.passed(now, Factor("measured", value, name, facts.source, True), varied)

    def _through_product(
        self, node: int, strand: Strand, sent: Sent, effect: Effect, elements: int
    ) -> Strand | None:
        """A product with constants that adds up: a weighted sum, whose weights are what was sent.

        Each element must go into one number only: `losses @ weights`, not a layer of a network.
        """
        facts, tensor = self._facts.node(node), sent.tensor
        is_one = isinstance(effect, Elementwise) or effect.count == 1 or self._is_of_vectors(sent)
        if not facts.name.startswith(PRODUCTS) or not is_one or len(self._beside) > 1:
            return None
        if not self._is_of_constants(node, sent) or facts.module is not None:
            return None
        over = tensor.elements // elements
        if tensor.elements <= elements or not over:
            return None
        now, varied = _weights_in(tensor.measured)
        if now is None and varied is None:
            return None
        received = next(iter(self._facts.received[node].values())).form.shape
        reduction = Reduction(
            "sum", over, node, facts.name, received, tensor.form.shape, facts.source,
            f"sum of {over}", facts.called,
        )  # fmt: skip
        found = strand.reduced(Fraction(1), max(over, 1), reduction)
        found = replace(found, live=tensor.elements, unknown=strand.unknown)
        return _weighing(found, now, varied, facts.source)

    def _is_of_vectors(self, sent: Sent) -> bool:
        """Whether a vector was made of a longer one: sums of groups of losses."""
        received = self._facts.received[sent.edge.sender].values()
        return len(sent.tensor.form.shape) == 1 and all(len(t.form.shape) == 1 for t in received)

    def _is_sum_of_products(self, node: int, leaving: list[Sent], elements: int) -> bool:
        """Whether a number is a sum of products of two tensors that both have a gradient."""
        facts, sizes = self._facts.node(node), {sent.tensor.elements for sent in leaving}
        return (
            elements == 1
            and facts.name.startswith(PRODUCTS)
            and len(leaving) == 2
            and len(sizes) == 1
            and sizes != {1}
            and not self._network.has(facts.module)
            and not any(is_above_leaf(self._facts, sent.edge.receiver) for sent in leaving)
        )

    def _of_products(self, node: int, strand: Strand, sent: Sent) -> Strand:
        """The items are the products."""
        facts, over = self._facts.node(node), sent.tensor.elements
        received = next(iter(self._facts.received[node].values())).form.shape
        words = f"sum of {over} products"
        reduction = Reduction("sum", over, node, facts.name, received, (over,), facts.source,
                              words, facts.called)  # fmt: skip
        return strand.reduced(Fraction(1), over, reduction)

    def _made_of(self, node: int, sent: Sent | None) -> str:
        """norm of 15 elements: what a single value was made of, if that was no sum of items."""
        if sent is None or sent.tensor.elements < 2 or not self._is_number(node):
            return ""
        facts, effect = self._facts.node(node), self._facts.effect(sent)
        if not isinstance(effect, Elementwise | Contracts | Distributes):
            return ""
        name = facts.called or facts.name.partition("Backward")[0].lower()
        return f"{name} of {sent.tensor.elements:,} elements"

    def _is_of_constants(self, node: int, sent: Sent) -> bool:
        """Whether the other operand of a product has no gradient, and is not that of a leaf."""
        is_alone = len(self._facts.outgoing[node]) == 1
        return is_alone and not is_above_leaf(self._facts, sent.edge.receiver)

    def _end_at_loss(self, node: int, strand: Strand, sent: Sent, effect: LossReduction) -> None:
        """A fused loss: its reduction, if it has one, and the items are told by its rule."""
        facts, measured = self._facts.node(node), sent.tensor.measured
        if effect.reduction != "none":
            received = next(iter(self._facts.received[node].values())).form.shape
            items = effect.items or 0
            kind = "weighted-mean" if effect.reduction == "weighted-mean" else effect.reduction
            denominator, factor, words = _denominator(effect), effect.factor, effect.words
            if kind == "weighted-mean" and denominator:
                # A sum of weights, made in single precision: 9.6 and not 5033165/524288.
                factor, words = 1 / denominator, f"weighted mean of {said(denominator)}"
            reduction = Reduction(
                kind, items, node, facts.name, received, _items_shape(sent, items), facts.source,
                words, facts.called, denominator,
            )  # fmt: skip
            above = strand
            strand = strand.reduced(factor, items, reduction)
            if effect.over == 0:
                strand = replace(_of_nothing(above, reduction), masked=items)
            elif effect.factor is None:
                strand = replace(strand, unknown=above.unknown or "the denominator is not known")
        if self._is_weighted(node, effect):
            strand = strand.passed(None, Factor("own", None, OWN, facts.source, True))
        if facts.name.startswith("NllLoss"):
            strand = _without_ignored(strand, measured, sent.tensor.form.dtype)
        self._end(node, strand, sent, measured)

    def _is_weighted(self, node: int, effect: LossReduction) -> bool:
        """Whether the items of a fused loss have weights that its denominator does not hold."""
        saved = self._facts.saved(node)
        if saved.get("weighted"):
            return True
        is_nll = self._facts.node(node).name.startswith("NllLoss")
        if not is_nll or effect.reduction == "weighted-mean" or "weight" in saved:
            return False
        total = saved.get("total_weight")
        return effect.reduction == "sum" and total is not None and total != effect.items

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
        strand = _with_own(strand)
        if strand.live == 1:
            strand = replace(strand, made=strand.made or self._made_of(node, sent))
        if strand.weight is None and strand.live and not strand.unknown:
            strand = replace(strand, unknown=NOT_MEASURED)
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


def _with_own(strand: Strand) -> Strand:
    """At its items: their own multipliers count if items weigh differently without them already,
    or if they make a mean of the sum of a list: somebody divided by the sum of the weights.
    """
    if "own" not in {factor.kind for factor in strand.since} or strand.varied is None:
        return strand
    is_sum = all(reduction.kind == "sum" for reduction in strand.reductions)
    is_list = bool(strand.reductions) and len(strand.reductions[-1].sent) == 1
    is_mean = is_sum and is_list and abs(abs(strand.varied.total) - 1) <= 1e-6
    return strand.settled() if strand.spread is not None or is_mean else strand


def _over(after: Exact | None, before: Exact | None) -> Exact | None:
    """By what an average was multiplied."""
    return after / before if after is not None and before else None


def _is_chosen(received: Tensor, sent: Tensor) -> bool:
    """Whether what was sent is what was received or zero, element by element."""
    a = None if received.measured is None else received.measured.values
    b = None if sent.measured is None else sent.measured.values
    if a is None or b is None or len(a) != len(b):
        return False
    return all(y == 0 or abs(x - y) <= 1e-6 * abs(x) for x, y in zip(a, b, strict=True))


def _weighing(
    strand: Strand, now: Exact | None, varied: Spread | None, source: int | None
) -> Strand:
    """A reduced strand whose items have these weights."""
    count = varied.count if varied is not None else None
    live = strand.live if count is None else count
    masked = strand.masked + strand.live - live
    before = product(factor.value for factor in strand.factors)
    found = replace(strand, now=now, varied=varied, spread=varied, live=live, masked=masked)
    found = replace(found, weight=now) if now is not None else found.averaged()
    value = found.weight / before if found.weight is not None and before else None
    kind, words = ("scale", "") if now is not None else ("own", OWN)
    if value == 1 and now is not None:
        return found
    factor = Factor(kind, value, words, source, True)
    return replace(found, factors=(*found.factors, factor))


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
    """A strand whose weights are not known, alone in a tensor: they are what was measured."""
    if strand.now is not None or strand.varied is not None or measured.nonfinite:
        return strand
    now, varied = _weights_in(measured)
    live = 1 if measured.elements == 1 else strand.live
    strand = replace(strand, now=now, varied=varied, live=live)
    if strand.weight is not None:
        return strand
    # Several paths met: all that they passed is settled.
    settled = replace(strand, weight=now) if now is not None else replace(strand, spread=varied)
    settled = settled if now is not None else settled.averaged()
    *before, paths = settled.factors
    known = product(factor.value for factor in before)
    value = settled.weight / known if settled.weight is not None and known else None
    return replace(settled, factors=(*before, replace(paths, value=value)))


def _weights_in(measured: Measurement | None) -> tuple[Exact | None, Spread | None]:
    """The one weight of all elements of a measured gradient, or the weights that they have."""
    now = _uniform(measured)
    return (now, None) if now is not None else (None, spread_of(measured))


def _moved(
    strand: Strand, sent: Sent, elements: int, unit: Exact | None, beside: list[Strand]
) -> Strand | None:
    """The strand after the same numbers went elsewhere, whole or in parts."""
    tensor, is_full = sent.tensor, strand.live == elements
    if tensor.elements == elements or (tensor.elements > elements and is_full):
        return strand
    part = (*strand.part, (sent.edge.sender, sent.edge.output))
    if strand.now is None:
        return _picked(strand, tensor, part) if len(beside) == 1 else None
    if is_full:
        return replace(strand, live=tensor.elements, part=part, masked=0)
    if tensor.measured is None:
        return None
    if unit is not None:
        kept = _counted(tensor.measured, unit, tensor.form.dtype)
    else:
        kept = _told_apart(strand, beside, tensor, elements)
    if kept is None or kept > strand.live:
        return None
    return replace(strand, live=kept, part=part, masked=_left_out_of(strand, tensor, kept))


def _left_out_of(strand: Strand, tensor: Tensor, live: int) -> int:
    """Of what a mask left out of a whole, the elements that are in this part of it."""
    return min(strand.masked, max(tensor.elements - live, 0))


def _picked(strand: Strand, tensor: Tensor, part: tuple[tuple[int, int], ...]) -> Strand | None:
    """A part of elements that weigh differently: its own weights are what was measured."""
    now, varied = _weights_in(tensor.measured)
    if now is None and varied is None:
        return None
    count = varied.count if varied is not None else None
    live = tensor.elements if count is None else count
    picked = strand.picked(now, varied, live)
    return replace(picked, part=part, masked=_left_out_of(strand, tensor, live))


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


def _met_again(strands: list[Strand], tensor: Tensor) -> list[Strand]:
    """Parts of one reduction that meet: of different items, of the same ones, or not told apart.

    In `(t + 0.1 * t)[1:].mean()` each item is reached on two ways, on one in
    `(t[:2] + 0.1 * t[2:]).mean()`. The norm of what was measured tells which.
    """
    measured = tensor.measured
    paths = {tuple((r.node, r.over) for r in strand.reductions) for strand in strands}
    is_known = measured is not None and not measured.nonfinite
    if len(strands) < 2 or len(paths) > 1 or not is_known or any(s.unknown for s in strands):
        return strands
    weights = [strand.now for strand in strands if strand.now is not None]
    if len(weights) < len(strands) or any(s.live >= tensor.elements for s in strands):
        return strands
    assert measured is not None
    square, near = measured.norm**2, 4 * max(2e-4, rounding(tensor.form.dtype))
    apart = sum(float(s.now or 0) ** 2 * s.live for s in strands)
    if abs(square - apart) <= near * max(square, apart):
        return strands
    lives = {strand.live for strand in strands}
    together = float(sum(weights)) ** 2 * min(lives)
    if len(lives) == 1 and abs(square - together) <= near * max(square, together):
        return [summed(strands)]
    return [replace(strand, unknown=OVERLAPPING) for strand in strands]


def _disagrees(strands: list[Strand], tensor: Tensor) -> bool:
    """Whether the sum of a measured gradient is not that of its strands."""
    measured = tensor.measured
    if measured is None or measured.nonfinite or isinstance(measured.sum, complex):
        return False
    if any(s.unknown for s in strands):
        return False
    if len(strands) == 1 and (varied := strands[0].varied) is not None:
        near = max(2e-4, rounding(tensor.form.dtype))
        most = max(abs(varied.largest), abs(varied.least or 0))
        return abs(varied.total - measured.sum) > near * most * tensor.elements
    if any(s.now is None for s in strands):
        return False
    near = max(2e-4, rounding(tensor.form.dtype))
    if len(strands) == 1:
        (strand,) = strands
        assert strand.now is not None
        return is_off(
            float(strand.now), strand.live, tensor.elements, measured.sum, measured.norm, near
        )
    parts = [(float(s.now), s.live) for s in strands if s.now is not None]
    expected = sum(now * live for now, live in parts)
    # Several strands may overlap: their squares say nothing.
    return abs(expected - measured.sum) > near * sum(abs(now) * live for now, live in parts)


def _by(effect: Scales) -> Exact:
    return effect.by if isinstance(effect.by, Fraction) else tidy(effect.by, DOUBLE)


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


def _of_nothing(strand: Strand, reduction: Reduction) -> Strand:
    """Behind a reduction of no items: a mean is 0/0, a sum 0, and nobody gets a gradient."""
    factor = Fraction(1) if reduction.kind == "sum" else None
    found = strand.reduced(factor, 0, reduction)
    return replace(found, live=0, masked=0, unknown=strand.unknown)


def _without_ignored(strand: Strand, measured: Measurement | None, dtype: str) -> Strand:
    """Targets that were ignored got nothing."""
    kept = None if measured is None else _counted(measured, strand.now, dtype)
    if kept is None or kept >= strand.live:
        return strand
    return replace(strand, live=kept, masked=strand.masked + strand.live - kept)
