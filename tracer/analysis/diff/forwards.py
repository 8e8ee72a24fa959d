"""What two calls tell of their forwards: other nodes, options, losses, groups of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.diff.origin import Origin
from tracer.analysis.diff.sides import Side
from tracer.semantics.effects import Elementwise, LossReduction, Normalises, Opaque

__all__ = ["functions", "graphs", "is_alike", "named", "normalisations", "place_of"]

MOST_PLACES = 4
MOST_NAMES = 4
MOST_ALIGNED = 500
"""Nodes of one module that are laid beside those of the other run."""

Counted = tuple[str, int]
Census = dict[str, list[Counted]]
"""By module: the name of each of its nodes, and its number."""

JOINING = ("torch.nn.parallel.", "torch.distributed.", "torch.utils.checkpoint.")
"""Functions that spread a model or join its parts."""

BATCH_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormWithUpdate")
TELLING = (Elementwise, LossReduction, Normalises, Opaque)
"""What a loss is made of; sums, means and factors are compared by the ledgers."""


def named(facts: CallFacts, index: int) -> str:
    """MulBackward0 (dropout): the node, and the function that made it if it is called otherwise."""
    node = facts.node(index)
    name = node.custom.rpartition(".")[2] or node.name
    called = node.called.partition("(")[0]
    plain = called.strip("_").replace("_", "").lower()
    return f"{name} ({called})" if called and plain not in name.lower() else name


def place_of(side: Side, facts: CallFacts, index: int) -> str:
    """The module that a node belongs to, "" outside of any."""
    place = side.names.place(facts.node(index).module)
    return (place.path or place.kind) if place is not None else ""


# Nodes that only one has, and attributes that differ.


def graphs(a: Side, b: Side, one: CallFacts, other: CallFacts) -> Iterator[Origin]:
    """Modules in which one has nodes that the other has not, or else options that differ."""
    left, right = _census(a, one), _census(b, other)
    only = [*_extra("A", left, right, one), *_extra("B", right, left, other)]
    yield from only[:MOST_PLACES]
    if len(only) > MOST_PLACES:
        more = len(only) - MOST_PLACES
        yield Origin("graph", f"and {more} more modules in which their graphs differ")
    if not only:
        yield from islice(_options(one, other), MOST_PLACES)


def _extra(which: str, own: Census, of_other: Census, facts: CallFacts) -> Iterator[Origin]:
    """Module by module, the nodes that the other graph has not, or not as many of."""
    for place, nodes in own.items():
        names = Counter(name for name, _ in nodes)
        names.subtract(name for name, _ in of_other.get(place, ()))
        extra = {name: count for name, count in names.items() if count > 0}
        if not extra:
            continue
        told = sorted(f"{count} x {name}" if count > 1 else name for name, count in extra.items())
        source = facts.node(_odd(nodes, of_other.get(place, []), extra)).source
        words = f"only {which} has in {place}: {', '.join(told[:MOST_NAMES])}"
        yield Origin("graph", words, *((source, None) if which == "A" else (None, source)))


def _odd(own: Sequence[Counted], other: Sequence[Counted], extra: Container[str]) -> int:
    """The first node that has no partner where the two are laid beside each other."""
    rest = list(range(len(own)))
    if len(own) <= MOST_ALIGNED:
        one, two = ([name for name, _ in nodes] for nodes in (own, other))
        for start, _, size in SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks():
            rest = [place for place in rest if not start <= place < start + size]
    odd = [own[place][1] for place in rest if own[place][0] in extra]
    return odd[0] if odd else next(index for name, index in own if name in extra)


def _census(side: Side, facts: CallFacts) -> Census:
    """The nodes inside modules, in order; of those around them the ledgers tell.

    Of replicas the first stands for all: how many there are, and what joins them, is no model.
    """
    found: Census = {}
    modules = facts.trace.modules
    first = min((m.replica for m in modules.values() if m.replica is not None), default=None)
    for index in facts.order:
        node = facts.node(index)
        if node.module is None or node.buffer is not None or node.custom.startswith(JOINING):
            continue
        if modules[node.module].replica in (None, first):
            found.setdefault(place_of(side, facts, index), []).append((named(facts, index), index))
    return found


def _options(one: CallFacts, other: CallFacts) -> Iterator[Origin]:
    """Saved attributes that differ on nodes that correspond; sizes follow from the batch."""
    if not is_alike(one, other):
        return
    for index in one.order:
        called = one.node(index).called, other.node(index).called
        if called[0] != called[1] and called[0].partition("(")[0] == called[1].partition("(")[0]:
            words = f"{called[0]} in A and {called[1]} in B"
            yield Origin("option", words, one.node(index).source, other.node(index).source)
        left, right = one.saved(index), other.saved(index)
        for name in left.keys() & right.keys():
            if left[name] != right[name] and _is_option(name, left[name]):
                words = f"{name} is {left[name]} in A and {right[name]} in B"
                kind = "option" if isinstance(left[name], bool | str) else "constant"
                sources = (one.node(index).source, other.node(index).source)
                yield Origin(kind, f"{named(one, index)}: {words}", *sources)


def _is_option(name: str, value: Any) -> bool:
    return isinstance(value, bool | float | str) and "size" not in name and name != "total_weight"


def is_alike(one: CallFacts, other: CallFacts) -> bool:
    """Whether two graphs have the same nodes in the same places."""
    left, right = one.structure, other.structure
    return left.edges == right.edges and [n.name for n in left.nodes] == [
        n.name for n in right.nodes
    ]


# What losses are made of.


def functions(one: CallFacts, other: CallFacts, terms: tuple[int, int]) -> Iterator[Origin]:
    """Functions outside of modules that only one has; `terms` is how many losses are added."""
    left, right = _made_of(one), _made_of(other)
    said = [
        f"{', '.join(list(names)[:MOST_NAMES])} in {which}"
        for names, which in (
            ([name for name in left if name not in right], "A"),
            ([name for name in right if name not in left], "B"),
        )
        if names
    ]
    if said:
        sources = (next(iter(left.values()), None), next(iter(right.values()), None))
        only = "only " if len(said) == 1 else ""
        yield Origin(
            "function", f"the losses are made of others: {only}{', '.join(said)}", *sources
        )
    elif terms[0] != terms[1] and all(terms):
        yield Origin("function", f"losses that are added: {terms[0]} in A, {terms[1]} in B")


def _made_of(facts: CallFacts) -> dict[str, int | None]:
    """The nodes around modules that are more than a sum or a factor, and the line of each."""
    found: dict[str, int | None] = {}
    for index in facts.order:
        node = facts.node(index)
        if node.module is None and node.buffer is None:
            effects = [facts.effect(sent) for sent in facts.leaving.get(index, ())]
            if any(isinstance(effect, TELLING) for effect in effects):
                found.setdefault(named(facts, index), node.source)
    return found


# What was normalised together.


def normalisations(one: CallFacts, other: CallFacts) -> Iterator[Origin]:
    """Batch normalisation over groups of another size: they have other statistics."""
    left, right = _groups(one), _groups(other)
    if left and right and left[0] != right[0]:
        words = f"over {left[0]} samples in A and over {right[0]} in B"
        yield Origin("normalisation", f"batch normalisation takes its statistics {words}",
                     left[1], right[1])  # fmt: skip


def _groups(facts: CallFacts) -> tuple[int, int | None] | None:
    """How many samples are normalised together, and the line, at the first that learns."""
    for index in facts.order:
        node = facts.node(index)
        if node.name.startswith(BATCH_NORMS) and facts.saved(index).get("training", True):
            received = next(iter(facts.received.get(index, {}).values()), None)
            if received is not None and received.form.shape:
                return received.form.shape[0], node.source
    return None
