"""Two gradients of two runs: is one a multiple of the other, and if not, how far are they apart?

NOTE [Cosines from projections]
Of a large gradient there is the norm and eight random projections. With u and v the gradients at
norm 1 and c their cosine, each projection of u + v is close to normal with variance 2 + 2c, each of
u - v with 2 - 2c, and the two are independent. The likeliest c under both is taken; its standard
error is (1 - c^2) / sqrt(8 (1 + c^2)), small where it matters, at c near 1 or -1. (Li, Hastie,
Church: Improving random projections using marginal information. COLT 2006.) Where all values were
kept the cosine is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from tracer.analysis.exact import SINGLE, is_zero, terms, tidy
from tracer.events import Measurement
from tracer.semantics.effects import Exact

__all__ = [
    "INCOMPARABLE",
    "Cluster",
    "Cosine",
    "Relation",
    "clusters_of",
    "joint_cosine",
    "related",
]

NEAR = 1e-2
"""Apart by less than this part of the norm: rounding that a few layers have amplified, perhaps."""

HOPELESS = 0.3
"""A gradient whose own rounding is this part of its norm cannot be compared."""

LARGER = 10
"""A gradient that is so many times what rounding is on the other side is no rounding."""

SEARCH = 60

INCOMPARABLE = ("zero", "rounding", "absent", "nonfinite", "unknown")
"""Kinds of relation that are the same on both sides and have no factor."""


@dataclass(frozen=True)
class Cosine:
    """Of the angle between two gradients; `error` is its standard error, 0 where it is exact."""

    value: float
    error: float


@dataclass(frozen=True)
class Relation:
    """How gradient B relates to gradient A.

    `kind`:

    - "multiple": B = `factor` x A, as near as their precision allows
    - "near": the same but for `off`, a small part of the norm, and that is more than rounding
    - "different": neither; `cosine` says how different
    - "zero": both are zero; "only-a", "only-b": the other one is zero, or nothing but rounding
    - "rounding": both are nothing but rounding errors around zero
    - "absent": neither has a gradient; "absent-a", "absent-b": that one has none
    - "nonfinite": NaN or infinite in both; "nonfinite-a", "nonfinite-b": in that one only
    - "unknown": not measured, or not of the same size

    `off` is |B - factor A| / |B|, estimated, `tolerance` what rounding may make of it. `norms` are
    those of A and B.
    """

    kind: str
    factor: Exact | None = None
    off: float = 0.0
    cosine: Cosine | None = None
    norms: tuple[float, float] = (0.0, 0.0)
    tolerance: float = 0.0
    elements: int = 0

    @property
    def is_proportional(self) -> bool:
        return self.kind == "multiple" or self.kind in INCOMPARABLE


def related(
    a: Measurement | None,
    b: Measurement | None,
    tolerance: float,
    noise: tuple[float, float] = (0.0, 0.0),
) -> Relation:
    """The relation of two gradients of the same parameter.

    `tolerance` is the rounding of their precision relative to the norm, `noise` how large the
    rounding of each may be in itself.
    """
    if a is None or b is None or a.elements != b.elements:
        return Relation("unknown")
    norms = (a.norm, b.norm)
    finite = [math.isfinite(m.norm) and not m.nonfinite for m in (a, b)]
    if not all(finite):
        kind = "nonfinite" if not any(finite) else f"nonfinite-{'b' if finite[0] else 'a'}"
        return Relation(kind, norms=norms)
    if is_zero(a) or is_zero(b):
        zeros = (is_zero(a), is_zero(b))
        kind = {(True, True): "zero", (True, False): "only-b", (False, True): "only-a"}[zeros]
        return Relation(kind, norms=norms)
    own = (noise[0] / a.norm, noise[1] / b.norm)
    if min(own) > HOPELESS:
        return Relation("rounding", norms=norms)
    if max(own) > HOPELESS:
        return Relation(_alone(own, norms), norms=norms)
    return _compared(a, b, tolerance + max(own))


def _alone(own: tuple[float, float], norms: tuple[float, float]) -> str:
    """Where one is nothing but rounding: the other is a gradient if it is far larger."""
    rounded, other = (0, 1) if own[0] > own[1] else (1, 0)
    if norms[other] < LARGER * norms[rounded]:
        return "rounding"
    return "only-b" if rounded == 0 else "only-a"


def _compared(a: Measurement, b: Measurement, tolerance: float) -> Relation:
    cosine = _cosine(a, b)
    factor = math.copysign(b.norm / a.norm, cosine.value)
    off = _off(a, b, factor)
    measured = (off, cosine, (a.norm, b.norm), tolerance, a.elements)
    if off <= tolerance:
        return Relation("multiple", tidy(factor, _error(off, tolerance)), *measured)
    return Relation("near" if off <= NEAR else "different", factor, *measured)


def _error(off: float, tolerance: float) -> float:
    """How far the factor may be off: the better two gradients fit, the better it is known."""
    return max(SINGLE, min(4 * off, tolerance))


def _off(a: Measurement, b: Measurement, factor: float) -> float:
    """|B - c A| / |B|: from all values, or else from the projections."""
    if _is_whole(a, b):
        values = zip(a.values or (), b.values or (), strict=True)
        return math.sqrt(math.fsum(abs(y - factor * x) ** 2 for x, y in values)) / b.norm
    projections = zip(a.fingerprint, b.fingerprint, strict=True)
    squares = [(y - factor * x) ** 2 for x, y in projections]
    return math.sqrt(math.fsum(squares) / len(squares)) / b.norm


def _is_whole(a: Measurement, b: Measurement) -> bool:
    return bool(a.values) and bool(b.values)


def _cosine(a: Measurement, b: Measurement) -> Cosine:
    if _is_whole(a, b):
        u, v = terms(a)[len(a.fingerprint) :], terms(b)[len(b.fingerprint) :]
        dot = math.fsum(x * y for x, y in zip(u, v, strict=True))
        size = math.sqrt(math.fsum(x * x for x in u) * math.fsum(y * y for y in v))
        return Cosine(max(-1.0, min(1.0, dot / size)), 0.0)
    u = [x / a.norm for x in a.fingerprint]
    v = [y / b.norm for y in b.fingerprint]
    return _likeliest(u, v)


def _likeliest(u: Sequence[float], v: Sequence[float]) -> Cosine:
    """NOTE [Cosines from projections]"""
    count = len(u)
    apart = math.fsum((x - y) ** 2 for x, y in zip(u, v, strict=True)) / count
    along = math.fsum((x + y) ** 2 for x, y in zip(u, v, strict=True)) / count

    def slope(c: float) -> float:
        """Of the log-likelihood, but for a positive factor."""
        return (
            (1 - c) * (1 + c) ** 2
            - (1 + c) * (1 - c) ** 2
            - apart * (1 + c) ** 2 / 2
            + along * (1 - c) ** 2 / 2
        )

    value = _root(slope)
    return Cosine(value, (1 - value**2) / math.sqrt(count * (1 + value**2)))


def _root(slope: Callable[[float], float]) -> float:
    """Where a function that falls through zero between -1 and 1 does so."""
    low, high = -1.0, 1.0
    for _ in range(SEARCH):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def joint_cosine(relations: Sequence[Relation]) -> Cosine | None:
    """Of many gradients laid end to end."""
    known = [(r.cosine, r.norms) for r in relations if r.cosine is not None]
    size = math.sqrt(
        math.fsum(n[0] ** 2 for _, n in known) * math.fsum(n[1] ** 2 for _, n in known)
    )
    if not size:
        return None
    parts = [(cosine, a * b / size) for cosine, (a, b) in known]
    value = math.fsum(cosine.value * weight for cosine, weight in parts)
    error = math.sqrt(math.fsum((cosine.error * weight) ** 2 for cosine, weight in parts))
    return Cosine(max(-1.0, min(1.0, value)), error)


@dataclass(frozen=True)
class Cluster:
    """Gradients that share one factor: their places in the list, and the factor of them all."""

    factor: Exact
    members: tuple[int, ...]

    @property
    def is_same(self) -> bool:
        return self.factor == 1


def clusters_of(relations: Sequence[Relation]) -> list[Cluster]:
    """Multiples grouped by their factor, the largest group first.

    Each factor is known as well as its gradient is; that of a group to how far they lie apart.
    """
    multiples = sorted(
        (float(r.factor), i)
        for i, r in enumerate(relations)
        if r.kind == "multiple" and r.factor is not None
    )
    groups: list[list[tuple[float, int]]] = []
    for value, place in multiples:
        if groups and _is_near(groups[-1][-1][0], value, relations[place].tolerance):
            groups[-1].append((value, place))
        else:
            groups.append([(value, place)])
    found = [
        Cluster(
            _pooled([(value, relations[place]) for value, place in group]),
            tuple(sorted(place for _, place in group)),
        )
        for group in groups
    ]
    return sorted(found, key=lambda cluster: -len(cluster.members))


def _is_near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= 2 * tolerance * abs(b)


def _pooled(group: Sequence[tuple[float, Relation]]) -> Exact:
    middle = median(value for value, _ in group)
    spread = max(abs(value - middle) for value, _ in group) / abs(middle)
    return tidy(middle, max(spread, *(_error(r.off, r.tolerance) for _, r in group)))
