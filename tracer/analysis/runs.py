"""Chains of multiplications in a large call: followed by numbers, and not node by node.

A loop that multiplies a gradient a million times is a million nodes that each have one sender and
one receiver. What a strand passes there is worked out once for each kind of node; of a single one
there is only the number that it multiplies by, and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.network import HOPS_TO_LEAF
from tracer.analysis.strand import Factor, Scaling, Strand, is_off
from tracer.graph.wiring import Wiring
from tracer.tracefile import NONFINITE, NORM, SUM

__all__ = ["Link", "Run", "Runs", "runs_of"]

SHORTEST = 16
"""Nodes from which on a chain is followed at once."""


@dataclass(frozen=True)
class Run:
    """What is behind a chain: a strand in front of `node`, at its `input`, and how it came there.

    `number` is the edge that it took last, `length` how many nodes it passed.
    """

    node: int
    input: int
    number: int
    strand: Strand
    length: int


@dataclass(frozen=True, eq=False)
class Link:
    """What the nodes of a chain that look the same to a rule do: nothing, or multiply by a factor.

    `near` is how far a sum may be off. `may_be_data`: of a batch of one item that was reduced, the
    factor may be a number of that item.
    """

    factor: Factor | None
    elements: int
    near: float
    may_be_data: bool = False


class Runs:
    """The chains of one call; `link` says what a node does, None where that must be looked at."""

    def __init__(
        self, facts: CallFacts, wiring: Wiring, link: Callable[[int], Link | None]
    ) -> None:
        self._facts = facts
        self._wiring = wiring
        self._link = link
        self._links: dict[int, Link | None] = {}
        self._sums = facts.measured.column(SUM)
        self._norms = facts.measured.column(NORM)
        self._nonfinite = facts.measured.column(NONFINITE)

    def down(self, node: int, strand: Strand) -> Run | None:
        """From a node that one strand came to, all of which is known; None where is no chain."""
        if strand.now is None or strand.varied is not None or strand.spread is not None:
            return None
        if strand.reductions and not strand.reductions[-1].over:
            return None
        nodes, rows, links = self._chain(node, is_reduced=bool(strand.reductions))
        # A multiplication in front of a leaf is no part of the loss: these are looked at.
        length = len(nodes) - HOPS_TO_LEAF - 1
        if length < SHORTEST:
            return None
        length, strand = self._passed(links[:length], rows, strand)
        if not length:
            return None
        arriving = self._wiring.arriving
        place = arriving.rows[arriving.starts[nodes[length]]]
        return Run(
            nodes[length], self._wiring.input[place], self._wiring.number[place], strand, length
        )

    def _chain(self, node: int, *, is_reduced: bool) -> tuple[list[int], list[int], list[Link]]:
        """The nodes behind one another with one sender and one receiver each, what was measured of
        them, and what they do.
        """
        wiring, deeds, roots = self._wiring, self._facts.deeds, self._facts.roots_at
        came, left = wiring.arriving.starts, wiring.leaving.starts
        received, outgoing = wiring.received.starts, wiring.outgoing.starts
        aboves, belows = wiring.arriving.rows, wiring.leaving.rows
        receipts, receipts_of = wiring.receipts, wiring.received.rows
        chain: tuple[list[int], list[int], list[Link]] = ([], [], [])
        nodes, measured, links = chain
        known, rows, forms, inputs = self._links, wiring.row, wiring.form, wiring.input
        got_rows, got_forms, got_inputs = receipts.row, receipts.form, receipts.input
        while True:
            above, below, receipt, behind = came[node], left[node], received[node], node + 1
            if (
                came[behind] - above != 1
                or left[behind] - below != 1
                or received[behind] - receipt != 1
                or outgoing[behind] - outgoing[node] != 1
            ):
                return chain
            above, below, receipt = aboves[above], belows[below], receipts_of[receipt]
            row = rows[above]
            if (
                got_rows[receipt] != row
                or got_forms[receipt] != forms[above]
                or got_inputs[receipt] != inputs[above]
                or node in roots
            ):
                return chain
            deed = deeds[node]
            if deed not in known:
                known[deed] = self._link(node)
            link = known[deed]
            if link is None or (link.may_be_data and is_reduced):
                return chain
            nodes.append(node)
            measured.append(row)
            links.append(link)
            node = wiring.receiver[below]

    def _passed(
        self, links: Sequence[Link], rows: Sequence[int], strand: Strand
    ) -> tuple[int, Strand]:
        """The strand behind a chain, or in front of the first node at which it is not what it
        should be; and how many nodes it passed.
        """
        scaling, place = Scaling(strand), 0
        for link, same in groupby(links):
            end = place + sum(1 for _ in same)
            if link.factor is None:
                off = self._off(rows[place:end], link, scaling)
                if off is not None:
                    return place + off, scaling.strand
                place = end
                continue
            for row in rows[place:end]:
                if not scaling.unknown and self._is_off(row, link, scaling):
                    return place, scaling.strand
                scaling.by(link.factor)
                place += 1
        return place, scaling.strand

    def _is_off(self, row: int, link: Link, scaling: Scaling) -> bool:
        """Whether the measured sum of a gradient does not fit its weight."""
        if row < 0 or self._nonfinite[row]:
            return False
        return is_off(
            scaling.now, scaling.live, link.elements, self._sums[row], self._norms[row],
            link.near,
        )  # fmt: skip

    def _off(self, rows: Sequence[int], link: Link, scaling: Scaling) -> int | None:
        """The first of some gradients of the same weight whose measured sum does not fit it."""
        if scaling.unknown:
            return None
        sums = [self._sums[row] for row in rows]
        norms = [self._norms[row] for row in rows]
        are_plain = min(rows) >= 0 and not any(self._nonfinite[row] for row in rows)
        if are_plain and not math.isnan(sum(sums)) and not math.isnan(sum(norms)):
            # Between two sums that fit there is none that does not.
            ends = product((min(sums), max(sums)), (min(norms), max(norms)))
            now, live, elements = scaling.now, scaling.live, link.elements
            if not any(is_off(now, live, elements, *end, link.near) for end in ends):
                return None
        each = enumerate(rows)
        return next((place for place, row in each if self._is_off(row, link, scaling)), None)


def runs_of(facts: CallFacts, link: Callable[[int], Link | None]) -> Runs | None:
    """None of a call that is not large."""
    return None if facts.wiring is None else Runs(facts, facts.wiring, link)
