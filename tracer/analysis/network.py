"""Which nodes belong to the network, and which to the loss on top of it."""

from __future__ import annotations

from tracer.analysis.callfacts import CallFacts
from tracer.semantics.effects import (
    Contracts,
    Opaque,
    ScatterAdds,
    Scatters,
    Selects,
)
from tracer.tracefile import Trace

__all__ = ["Network", "batch_below", "is_above_leaf"]

MOST_LOOKED_AT = 400
HOPS_TO_LEAF = 4


class Network:
    """Modules that own parameters, and their copies on other devices."""

    def __init__(self, trace: Trace) -> None:
        self._modules = trace.modules
        owners = (b.module for b in trace.buffers.values() if b.is_parameter)
        self._roots = {self._modules[m].root for m in owners if m is not None}
        wrapped = (m for m in self._modules.values() if m.path == "module")
        kinds = {m.kind for m in wrapped if self._modules[m.root].kind == "DataParallel"}
        self._copies = {
            m.id
            for m in self._modules.values()
            if m.root == m.id and (m.replica is not None or m.kind in kinds)
        }

    def has(self, module: int | None) -> bool:
        """Whether the module is part of one that owns parameters."""
        if module is None:
            return False
        root = self._modules[module].root
        return root in self._roots or root in self._copies

    @property
    def has_copies(self) -> bool:
        """Whether there are replicas of a model."""
        return bool(self._copies)

    def replica(self, facts: CallFacts, node: int) -> int | None:
        """The device of the copy of the model that a node belongs to, None outside of copies."""
        module = facts.node(node).module
        if module is None or self._modules[module].root not in self._copies:
            return None
        received = next(iter(facts.received.get(node, {}).values()), None)
        device = "" if received is None else received.form.device.rpartition(":")[2]
        return int(device) if device.isdecimal() else self._modules[module].replica


def is_above_leaf(facts: CallFacts, node: int) -> bool:
    """Whether this node is a leaf's own, or only hands on to it."""
    for _ in range(HOPS_TO_LEAF):
        if facts.node(node).buffer is not None:
            return True
        leaving = facts.leaving.get(node, [])
        if len(leaving) != 1 or facts.effect(leaving[0]).kind not in ("moves", "sums"):
            return False
        node = leaving[0].edge.receiver
    return False


def batch_below(facts: CallFacts, starts: list[int]) -> int | None:
    """How many samples there are, if the first layer below says so without doubt.

    The first dimension of what a convolution or a matrix product receives is that of the samples,
    if every gradient on the way there has it in front too and nothing picks or mixes rows.
    """
    queue, seen = list(starts), set(starts)
    batches: set[int] = set()
    while queue and len(seen) < MOST_LOOKED_AT:
        node = queue.pop(0)
        received = facts.received.get(node, {}).get(0)
        if received is None or not received.form.shape:
            return None
        effects = [facts.effect(sent) for sent in facts.leaving.get(node, ())]
        if any(isinstance(e, (ScatterAdds, Selects, Opaque)) for e in effects):
            return None
        if effects and all(isinstance(effect, Scatters) for effect in effects):
            return _of_chunks(facts, node, {*batches, received.form.shape[0]})
        batches.add(received.form.shape[0])
        if len(batches) > 1:
            return None
        if any(isinstance(effect, Contracts) for effect in effects):
            if facts.node(node).name.startswith("Convolution"):
                return batches.pop()
            if _has_weight_in_front(facts, node):
                return None
            return batches.pop() if len(received.form.shape) == 2 else None
        for sent in facts.leaving.get(node, ()):
            if sent.edge.receiver not in seen:
                seen.add(sent.edge.receiver)
                queue.append(sent.edge.receiver)
    return None


def _has_weight_in_front(facts: CallFacts, node: int) -> bool:
    """Whether a product is of a weight and data, `W @ x`: its samples are columns."""
    name = facts.node(node).name
    first = 1 if name.startswith("Addmm") else 0
    return name.startswith(("MmBackward", "AddmmBackward")) and any(
        sent.edge.output == first and is_above_leaf(facts, sent.edge.receiver)
        for sent in facts.leaving.get(node, ())
    )


def _of_chunks(facts: CallFacts, node: int, batches: set[int]) -> int | None:
    """Of a batch that replicas shared: the chunks must say so too, and make up the whole."""
    chunks = [batch_below(facts, [sent.edge.receiver]) for sent in facts.leaving[node]]
    known = [chunk for chunk in chunks if chunk is not None]
    if len(known) < len(chunks) or batches != {sum(known)}:
        return None
    return sum(known)
