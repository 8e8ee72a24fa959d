"""What is plain to read on an autograd node: its name, its saved attributes, its hooks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from tracer.record.measure import is_ordinary, plain
from tracer.record.operands import (
    DIFFERENCES,
    PRODUCTS,
    SPREAD,
    grid_error,
    may_be_grid,
    may_meet_grid,
    pairs_error,
    sizes_of,
    spread_of,
)

__all__ = ["TENSOR_HOOKS", "NodeKind", "Saved", "hooks_before", "kind_of", "node_of", "saved_of"]

TENSOR_HOOKS = "tracer_hooks"
"""Where `Tensor.register_hook` notes, in a node's metadata, the hooks on the node's outputs."""

NUMBERS = {
    "DivBackward0": ("other",),
    "DivBackward2": ("other",),
    "MulBackward0": ("self", "other"),
    "NllLossBackward0": ("total_weight",),
    "NllLoss2DBackward0": ("total_weight",),
}
"""Saved tensors that are worth unpacking: factors and denominators, where they have one element."""

WEIGHTED = frozenset({"BinaryCrossEntropyBackward0", "BinaryCrossEntropyWithLogitsBackward0"})
"""Losses that save `weight`, a weight for each item, if the user gave one."""

OPTIONAL = {
    "NllLossBackward0": ("weight",),
    "NllLoss2DBackward0": ("weight",),
    "ScaledDotProductEfficientAttentionBackward0": ("attn_bias",),
    "ScaledDotProductFlashAttentionForCpuBackward0": ("attn_mask",),
}
"""Saved tensors whose absence says something: a loss without class weights, attention unmasked."""


@dataclass(frozen=True, eq=False)
class NodeKind:
    """What all nodes of one class have in common.

    `plain` are the saved attributes that are no tensors, `numbers` the saved tensors to look into,
    `optional` those to keep as None where they are, each as pairs of the trace's name and torch's.
    `custom` is the qualified name of a Python Function.
    """

    name: str
    plain: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[str, str], ...]
    optional: tuple[tuple[str, str], ...]
    custom: str
    accumulates: bool
    is_product: bool = False
    is_difference: bool = False
    read: Callable[[Any], tuple[Any, ...]] | None = None
    """All plain attributes at once, where there is nothing else to look at."""
    known: dict[tuple[Any, ...], Saved] = field(default_factory=dict)
    """What such a node has saved, by these."""
    number: int = field(default_factory=itertools.count().__next__)


_kinds: dict[tuple[type, str], NodeKind] = {}
_kinds_of_types: dict[type, NodeKind] = {}


def kind_of(node: Any) -> NodeKind:
    """The kind of a node, worked out once for each class."""
    kind = _kinds_of_types.get(type(node))
    if kind is None:
        name = node.name()
        kind = _kinds.get((type(node), name))
        if kind is None:
            kind = _kinds[type(node), name] = _inspect(node, name)
        # Nodes that torch has no class for share one, and have names of their own.
        if type(node).__name__ == kind.name:
            _kinds_of_types[type(node)] = kind
    return kind


def _inspect(node: Any, name: str) -> NodeKind:
    name = name.removeprefix("torch::autograd::")
    if isinstance(node, BackwardCFunction):
        function = getattr(type(node), "_forward_cls", type(node))
        return NodeKind(name, (), (), (), f"{function.__module__}.{function.__qualname__}", False)
    attributes = dir(type(node))
    saved = [a for a in attributes if a.startswith("_saved_")]
    plain = tuple((a[7:], a) for a in saved if f"_raw{a}" not in attributes)
    looked_at = any(name in table for table in (NUMBERS, OPTIONAL, DIFFERENCES, SPREAD, WEIGHTED))
    return NodeKind(
        name,
        plain=plain,
        numbers=_present(NUMBERS.get(name, ()), attributes),
        optional=_present(OPTIONAL.get(name, ()), attributes),
        custom="",
        accumulates=name == "AccumulateGrad",
        is_product=name in PRODUCTS,
        is_difference=name in DIFFERENCES,
        read=None if looked_at else _reader([attribute for _, attribute in plain]),
    )


def _reader(attributes: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(attributes) > 1:
        return attrgetter(*attributes)
    return lambda node: tuple(getattr(node, attribute) for attribute in attributes)


def _present(names: tuple[str, ...], attributes: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, f"_saved_{name}") for name in names if f"_saved_{name}" in attributes)


@dataclass(slots=True)
class Saved:
    """The readable attributes of one node: see `events.NodeState`. `state` numbers those alike."""

    plain: tuple[tuple[str, Any], ...] = ()
    numbers: tuple[tuple[str, float | torch.Tensor], ...] = ()
    state: int = -1

    def having(self, name: str, value: Any) -> Saved:
        """The same and one plain attribute more."""
        return Saved((*self.plain, (name, value)), self.numbers)


NOTHING = Saved()
FROZEN = Saved((("frozen", True),))
"""A leaf that no longer requires a gradient: the engine comes to it and adds nothing."""


def saved_of(node: Any, kind: NodeKind, lazy: bool) -> Saved:
    """Read a node before it runs. `lazy`: its saved tensors have hooks, and are left alone.

    Unpacking a saved tensor calls the user's hook, if there is one; that of checkpointing would
    compute the forward again, once too often.
    """
    if kind.accumulates:
        return NOTHING if node.variable.requires_grad else FROZEN
    if kind.read is None or len(kind.known) >= MOST_KNOWN:
        return _read(node, kind, lazy)
    values = kind.read(node)
    key = (*values, *map(type, values))  # 1, 1.0 and True are equal, and not the same
    try:
        known = kind.known.get(key)
    except TypeError:  # not hashable
        return _read(node, kind, lazy)
    if known is None:
        known = _read(node, kind, lazy)
        # Others may be changed later, or be kept alive by being remembered.
        if all(type(value) in SIMPLE for value in _leaves(values)):
            kind.known[key] = known
    return known


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) is tuple:
        for item in value:
            yield from _leaves(item)
    else:
        yield value


SIMPLE = frozenset({type(None), bool, int, float, str})
MOST_KNOWN = 1000
"""Of a kind whose numbers change in every call no more than this many are remembered."""


def _read(node: Any, kind: NodeKind, lazy: bool) -> Saved:
    plain: list[tuple[str, Any]] = []
    numbers: list[tuple[str, float | torch.Tensor]] = []
    for name, attribute in kind.plain:
        value = getattr(node, attribute)
        if type(value) is float:
            numbers.append((name, value))
        else:
            readable = _readable(value)
            if readable is not _UNREADABLE:
                plain.append((name, readable))
    if not lazy:
        for name, attribute in kind.numbers:
            tensor = _saved_tensor(node, attribute)
            number = None if tensor is None else _single(tensor)
            if number is not None:
                numbers.append((name, number))
            if tensor is not None and number is not None and kind.is_product:
                # Without any it is a number, with some it may be a batch of one.
                plain.append((f"{name}_dims", tensor.dim()))
            elif tensor is not None and kind.is_product:
                sizes = sizes_of(node, tensor)
                plain += [] if sizes is None else [(f"{name}_sizes", sizes)]
                error = pairs_error(tensor) if may_meet_grid(node, tensor) else None
                numbers += [] if error is None else [("operand_grid_error", error)]
        if kind.is_difference and may_be_grid(node):
            matrix = _saved_tensor(node, "_saved_self")
            error = None if matrix is None else grid_error(matrix)
            numbers += [] if error is None else [("grid_error", error)]
        if kind.name in SPREAD:
            target = _saved_tensor(node, "_saved_target")
            spread = () if target is None else spread_of(target)
            plain += [("target_spread", spread)] if spread else []
        if kind.name in WEIGHTED and not _is_absent(node, "_saved_weight"):
            plain.append(("weighted", True))
        for name, attribute in kind.optional:
            if _is_absent(node, attribute):
                plain.append((name, None))
    if not plain and not numbers:
        return NOTHING
    return Saved(tuple(plain), tuple(numbers))


_UNREADABLE = object()


def _readable(value: Any) -> Any:
    """A value as JSON will keep it, hashable; _UNREADABLE for tensors, generators and the like."""
    if value is None or type(value) in (bool, int, str, float):
        return value
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple | list):
        items = tuple(_readable(item) for item in value)
        return _UNREADABLE if _UNREADABLE in items else items
    if isinstance(value, complex):
        return (value.real, value.imag)
    if isinstance(value, torch.SymInt):
        return str(value)
    return _UNREADABLE


def _saved_tensor(node: Any, attribute: str) -> torch.Tensor | None:
    """A saved tensor of ordinary layout; it may require a gradient.

    One that was freed, or changed since it was saved, is not there to be read; the node's own run
    says so to the user, if it needs it.
    """
    try:
        tensor: torch.Tensor | None = getattr(node, attribute)
    except RuntimeError:
        return None
    if tensor is None or is_ordinary(tensor):
        return tensor
    found = plain(tensor)
    return found if found is not None and found.layout is torch.strided else None


def _single(tensor: torch.Tensor) -> float | torch.Tensor | None:
    """A tensor of one real element: its value, or on another device itself, to fetch later."""
    if tensor.numel() != 1 or tensor.is_complex():
        return None
    return float(tensor.item()) if tensor.is_cpu else tensor.detach().reshape(()).clone()


def _is_absent(node: Any, attribute: str) -> bool:
    try:
        return getattr(node, attribute) is None
    except RuntimeError:  # freed, or changed since
        return False


def node_of(tensor: Any) -> Any | None:
    """The node that made a tensor; None of a leaf, and where torch does not tell.

    It makes that of a view anew when the base was changed since, and refuses to where the view is
    one of several of one call (`split`, `unbind`): `.grad_fn` raises. So does the user's own call,
    if it needs the node; it may well not.
    """
    try:
        return getattr(tensor, "grad_fn", None)
    except RuntimeError:
        return None


def hooks_before(node: Any, prehooks: int) -> int:
    """How many hooks of the user stand between what was sent to a node and what it receives.

    `prehooks` are those of `Node.register_prehook`; the tensor hooks are found in the metadata or,
    for a leaf, on the leaf.
    """
    tensor_hooks = sum(len(hooks) for hooks in node.metadata.get(TENSOR_HOOKS, ()))
    variable = getattr(node, "variable", None)
    if variable is not None and variable._backward_hooks:
        tensor_hooks += len(variable._backward_hooks)
    return prehooks + tensor_hooks
