"""What two optimizers make of their gradients: the step of a parameter in B beside that in A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracer.analysis.diff.relation import INCOMPARABLE
from tracer.analysis.diff.sides import Side
from tracer.analysis.diff.timeline import Comparison, Match
from tracer.analysis.exact import DOUBLE, is_same, tidy
from tracer.analysis.notes import Optimizer
from tracer.semantics.effects import Exact

__all__ = ["Update", "Updates", "updates_of"]

COUNTED = {"lr", "weight_decay", "maximize", "momentum"}
"""Options that are compared by what they come to."""


@dataclass(frozen=True)
class Updates:
    """How the step of a parameter in B relates to that in A.

    `kind` is "none" (nothing consumed it), "linear" (SGD on both sides: `ratio` is the step of B
    over that of A, gradient and learning rate together), "adaptive" (a constant factor cancels but
    for eps and coupled decay: `ratio` is that of the learning rates), "unlike" (two kinds of
    optimizer) or "unknown". `decay` is lr x weight decay of A and of B where it acts on the
    weights, `coupled` the weight decay of adaptive optimizers that add it to the gradient.
    `options` are those that differ, with their two values. `has_eps`: a factor cancels but for it.
    """

    kind: str
    kinds: tuple[str, str]
    ratio: Exact | None = None
    gradient: Exact | None = None
    lr: tuple[float | None, float | None] = (None, None)
    decay: tuple[float, float] = (0.0, 0.0)
    momentum: tuple[float, float] = (0.0, 0.0)
    options: tuple[tuple[str, Any, Any], ...] = ()
    coupled: tuple[float, float] = (0.0, 0.0)
    has_eps: bool = False

    @property
    def is_same(self) -> bool:
        """Whether both take the same step, as far as it can be told."""
        is_one_optimizer = self.kinds[0] == self.kinds[1] and not self.options
        if self.kind == "none" or (is_one_optimizer and self.gradient == 1):
            return True
        return self.kind in ("linear", "adaptive") and not self.differs

    @property
    def differs(self) -> tuple[str, ...]:
        """What makes other steps of the gradients: options, and what options come to."""
        found = []
        if not is_same(self.ratio, tidy(1.0)):
            found.append("lr" if self.gradient == 1 or self.kind == "adaptive" else "gradient x lr")
        if not is_near(*self.decay) or not is_near(*self.coupled):
            found.append("weight decay")
        elif any(self.coupled) and self.gradient != 1:
            found.append("what L2 decay weighs beside the gradient")
        if not is_near(*self.momentum):
            found.append("momentum")
        left = {name for name, _, _ in self.options} - COUNTED
        return (*found, *sorted(left))


@dataclass(frozen=True)
class Update:
    """Parameters whose steps relate alike."""

    updates: Updates
    members: tuple[Match, ...]


def is_near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


IDLE = ("foreach", "fused", "capturable", "differentiable", "initial_lr")
"""Options that change how a step is computed, or nothing, but not what it does."""


def updates_of(a: Side, b: Side, comparison: Comparison) -> list[Update]:
    """Parameters grouped by how their steps relate, the largest group first."""
    factors = {n: cluster.factor for cluster in comparison.clusters for n in cluster.members}
    groups: dict[Updates, list[Match]] = {}
    for place, match in enumerate(comparison.matches):
        if match.relation.kind in ("absent", "absent-a", "absent-b"):
            continue
        factor = factors.get(place)
        if match.relation.kind in INCOMPARABLE and comparison.clusters:
            factor = comparison.clusters[0].factor  # it says nothing against that of the others
        groups.setdefault(_updates(a, b, match, factor), []).append(match)
    found = [Update(updates, tuple(members)) for updates, members in groups.items()]
    return sorted(found, key=lambda one: -len(one.members))


def _updates(a: Side, b: Side, match: Match, gradient: Exact | None) -> Updates:
    one, other = match.a.step, match.b.step
    if one is None or other is None:
        kinds = (one.kind if one else "", other.kind if other else "")
        return Updates("none" if one is other else "unlike", kinds)
    left, right = a.options(match.pair.a, match.a), b.options(match.pair.b, match.b)
    lr = (_number(left, "lr"), _number(right, "lr"))
    rates = None if lr[0] is None or lr[1] is None or not lr[0] else tidy(lr[1] / lr[0], DOUBLE)
    optimizers = (a.optimizer(match.pair.a, match.a), b.optimizer(match.pair.b, match.b))
    kind = _kind(one.kind, other.kind, optimizers[0])
    ratio = rates if kind == "adaptive" else None
    if kind == "linear" and rates is not None and gradient is not None:
        sign = -1 if bool(left.get("maximize")) != bool(right.get("maximize")) else 1
        ratio = rates * gradient * sign
    return Updates(
        kind, (one.kind, other.kind), ratio, gradient, lr,
        (_decay(left, optimizers[0]), _decay(right, optimizers[1])),
        (_number(left, "momentum") or 0.0, _number(right, "momentum") or 0.0),
        _differing(left, right), (_coupled(optimizers[0]), _coupled(optimizers[1])),
        bool(_number(left, "eps")),
    )  # fmt: skip


def _kind(a: str, b: str, optimizer: Optimizer | None) -> str:
    if optimizer is None or a != b:
        return "unlike"
    return "linear" if optimizer.is_linear else "adaptive" if optimizer.is_adaptive else "unknown"


def _number(options: Mapping[str, Any], name: str) -> float | None:
    value = options.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _coupled(optimizer: Optimizer | None) -> float:
    return optimizer.l2_decay if optimizer is not None and optimizer.is_adaptive else 0.0


def _decay(options: Mapping[str, Any], optimizer: Optimizer | None) -> float:
    """How much of a weight one step takes away, where decay acts on the weight itself."""
    if _coupled(optimizer):
        return 0.0
    return (_number(options, "weight_decay") or 0.0) * (_number(options, "lr") or 0.0)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    names = dict.fromkeys((*a, *b))
    pairs = [(name, _plain(a.get(name)), _plain(b.get(name))) for name in names]
    return tuple(p for p in pairs if p[0] not in IDLE and p[1] != p[2])


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
