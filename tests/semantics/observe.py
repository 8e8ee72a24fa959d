"""Real nodes of real torch: what they received and sent, and the facts a rule would be given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tracer.semantics import (
    Averages,
    Broadcasts,
    Effect,
    Gathers,
    Moves,
    NodeFacts,
    Scales,
    Sums,
    effects_of,
)

__all__ = ["Observation", "broken_laws", "checks_of", "observe"]

Tensors = tuple[torch.Tensor | None, ...]
Check = Callable[[Effect, torch.Tensor, "Observation"], str | None]
"""Says what is wrong, "" if nothing is, None where the effect claims nothing of this kind."""

TOLERANCES = {
    torch.float64: 1e-7,
    torch.complex128: 1e-7,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
}


@dataclass(frozen=True)
class Observation:
    """One node of one backward call."""

    facts: NodeFacts
    received: Tensors
    sent: Tensors


def observe(
    roots: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor] | None = None,
    create_graph: bool = False,
) -> list[Observation]:
    """Run a backward call from these roots; every node that ran, in the order in which it did."""
    seen: list[Observation] = []
    handles = [
        node.register_hook(_witness(node, saved_of(node), seen)) for node in nodes_above(roots)
    ]
    try:
        torch.autograd.backward(roots, gradients, retain_graph=True, create_graph=create_graph)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def nodes_above(roots: Sequence[torch.Tensor]) -> Iterator[Any]:
    """Every node that a backward call from these roots can reach, once."""
    todo: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    known = set(todo)
    while todo:
        node = todo.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in known:
                known.add(following)
                todo.append(following)


def _witness(node: Any, saved: dict[str, Any], seen: list[Observation]) -> Callable[..., None]:
    def hook(sent: Tensors, received: Tensors) -> None:
        arrived, left = _copies(received), _copies(sent)
        facts = NodeFacts(node.name(), _shapes(arrived), _shapes(left), saved, custom_name(node))
        seen.append(Observation(facts, arrived, left))

    return hook


def custom_name(node: Any) -> str:
    function = getattr(type(node), "_forward_cls", None)
    return "" if function is None else f"{function.__module__}.{function.__qualname__}"


def _copies(tensors: Tensors) -> Tensors:
    return tuple(None if one is None else one.detach().clone() for one in tensors)


def _shapes(tensors: Tensors) -> tuple[tuple[int, ...] | None, ...]:
    return tuple(None if one is None else tuple(one.shape) for one in tensors)


def saved_of(node: Any) -> dict[str, Any]:
    """The plain attributes of a node; saved tensors of one element as numbers."""
    found: dict[str, Any] = {}
    for attribute in dir(node):
        if not attribute.startswith("_saved_"):
            continue
        try:
            value = getattr(node, attribute)
        except RuntimeError:  # changed in place since, or freed: not to be read
            continue
        if isinstance(value, torch.Tensor):
            if value.layout is torch.strided and value.numel() == 1:
                found[attribute[7:]] = value.item()
        elif not _holds_tensors(value):
            found[attribute[7:]] = value
    return found


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and any(isinstance(v, torch.Tensor) for v in value)


def broken_laws(seen: Observation) -> list[str]:
    """What the effects of this node claim and the numbers deny, knowing all facts and few."""
    if not _is_checkable(seen):
        return []
    ignorant = replace(seen, facts=replace(seen.facts, saved={}))
    return [problem for one in (seen, ignorant) for _, problem in checks_of(one) if problem]


def checks_of(seen: Observation) -> Iterator[tuple[str, str]]:
    """Every check that the claims of this node allow: its name, and what is wrong or ""."""
    if not _is_checkable(seen):
        return
    effects = effects_of(seen.facts)
    for check in (sum_law, same_for_all, same_numbers):
        for effect, sent in zip(effects, seen.sent, strict=True):
            problem = None if sent is None else check(effect, sent, seen)
            if problem is not None:
                yield check.__name__, problem
    shared = together(effects, seen)
    if shared is not None:
        yield "together", shared


def _is_checkable(seen: Observation) -> bool:
    everything = [one for one in (*seen.received, *seen.sent) if one is not None]
    return all(one.layout is torch.strided and torch.isfinite(one).all() for one in everything)


def _total(tensors: Sequence[torch.Tensor | None]) -> float:
    return math.fsum(_real(one).sum().item() for one in tensors if one is not None)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.real(tensor).double()


def _size(tensors: Sequence[torch.Tensor | None]) -> float:
    return math.fsum(one.abs().double().sum().item() for one in tensors if one is not None)


def _tolerance(seen: Observation) -> float:
    """Relative, by the coarsest type among what the node received and sent."""
    types = [one.dtype for one in (*seen.received, *seen.sent) if one is not None]
    return max((TOLERANCES.get(one, 2e-2) for one in types), default=0.0)


def _differ(found: float, expected: float, size: float, seen: Observation) -> bool:
    return abs(found - expected) > _tolerance(seen) * (size + 1e-6)


def sum_law(effect: Effect, sent: torch.Tensor, seen: Observation) -> str | None:
    """The sum of what was sent is that of what was received times the factor of the law."""
    factor = effect.sum_factor
    if factor is None:
        return None
    found, expected = _total([sent]), float(factor) * _total(seen.received)
    size = _size([sent]) + (abs(float(factor)) + 1) * _size(seen.received)
    if not _differ(found, expected, size, seen):
        return ""
    return f"{effect}: sum of sent is {found}, of received x {factor} is {expected}"


def same_for_all(effect: Effect, sent: torch.Tensor, seen: Observation) -> str | None:
    """Where all of what was received is one number, so is what is sent, and it is known.

    Pooling is spared: not every element lies in as many windows.
    """
    arrived, name = seen.received[0], seen.facts.name
    if type(effect) not in (Averages, Broadcasts, Sums, Scales) or effect.claims != "each":
        return None
    if arrived is None or effect.factor is None or "Pool" in name or "Trace" in name:
        return None
    if not arrived.numel() or bool((arrived != arrived.flatten()[0]).any()):
        return None
    times = effect.then_sums * (effect.over if isinstance(effect, Sums) else 1)
    expected = _real(arrived).flatten()[0].item() * float(effect.factor) * times
    if torch.allclose(_real(sent), torch.tensor(expected).double(), rtol=1e-3):
        return ""
    return f"{effect}: sent {sent}, not {expected} everywhere"


def same_numbers(effect: Effect, sent: torch.Tensor, seen: Observation) -> str | None:
    """What only moves (or is scaled) has the same numbers before and after, in any order."""
    arrived = [one for one in seen.received if one is not None]
    if type(effect) not in (Moves, Scales, Gathers) or effect.claims != "each":
        return None
    if effect.factor is None or effect.then_sums != 1 or len(arrived) != 1:
        return None
    if arrived[0].numel() != sent.numel():
        return None
    before = (_real(arrived[0]) * float(effect.factor)).flatten().sort().values
    after = _real(sent).flatten().sort().values
    close = torch.allclose(before, after, rtol=_tolerance(seen), atol=_tolerance(seen))
    return "" if close else f"{effect}: {arrived[0]} became {sent}"


def together(effects: Sequence[Effect], seen: Observation) -> str | None:
    """The law of a node whose outputs share what was received, if all of them were sent."""
    if not effects or any(one is None for one in seen.sent):
        return None
    laws = {effect.own_law if effect.claims == "together" else None for effect in effects}
    law = laws.pop() if len(laws) == 1 else None
    if law is None:
        return None
    found, expected = _total(seen.sent), float(law) * _total(seen.received)
    if not _differ(found, expected, _size(seen.sent) + _size(seen.received), seen):
        return ""
    return f"{effects[0]}: sums of sent are {found} together, of received {expected}"
