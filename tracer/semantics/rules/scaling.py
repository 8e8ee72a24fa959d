"""Addition, subtraction, multiplication and division: exact factors, and sums after broadcasts."""

from __future__ import annotations

import math

from tracer.semantics.effects import (
    Effect,
    Elementwise,
    Exact,
    Moves,
    Opaque,
    Scales,
    exact,
    reciprocal,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import number, per_output

ZERO = Scales(by=exact(0))


def scaled(by: Exact | None) -> Effect:
    """The effect of a known factor: none to speak of for 1."""
    if by is None:
        return Elementwise()
    return Moves() if by == 1 else Scales(by=by)


def times(node: NodeFacts, name: str, sign: int = 1) -> Effect:
    """The effect of multiplying by a saved number, opaque where it was not recorded."""
    if name not in node.saved:
        return Opaque(f"{name} was not recorded")
    value = number(node, name)
    return Elementwise() if value is None else scaled(exact(sign * value))


@rule("AddBackward0", "AddBackward1")
def add(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a + alpha b) is da + alpha db."""
    return per_output(node, Moves(), times(node, "alpha"))


@rule("SubBackward0", "SubBackward1")
def sub(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a - alpha b) is da - alpha db."""
    return per_output(node, Moves(), times(node, "alpha", -1))


@rule("RsubBackward0", "RsubBackward1")
def rsub(node: NodeFacts) -> tuple[Effect, ...]:
    """d (b - alpha a) is db - alpha da."""
    return per_output(node, times(node, "alpha", -1), Moves())


@rule("MulBackward0", "MulBackward1")
def mul(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a b) is b da + a db; a factor of one element is the same for all."""
    factors = (number(node, name) for name in ("other", "self"))
    effects = (scaled(None if factor is None else exact(factor)) for factor in factors)
    return per_output(node, *effects)


@rule("DivBackward0", "DivBackward1")
def div(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a / b) is da / b - a db / b^2."""
    divisor = number(node, "other")
    numerator = scaled(None if divisor is None else reciprocal(divisor))
    return per_output(node, numerator, Elementwise())


@rule("DivBackward2", "DivBackward3")
def div_rounded(node: NodeFacts) -> Effect | tuple[Effect, ...]:
    """The same, unless the quotient is rounded: steps have derivative 0."""
    if "rounding_mode" not in node.saved:
        return Opaque("whether the quotient was rounded was not recorded")
    return div(node) if node.saved["rounding_mode"] is None else ZERO


@rule("LerpBackward0")
def lerp(node: NodeFacts) -> tuple[Effect, ...]:
    """d ((1 - w) a + w b) is (1 - w) da + w db."""
    weight = number(node, "weight")
    if weight is None:
        return per_output(node, Elementwise(), Elementwise())
    return per_output(node, scaled(exact(1 - weight)), scaled(exact(weight)))


@rule("NegBackward0", "NegViewBackward0")
def neg(node: NodeFacts) -> Effect:
    """d (-x) is -dx."""
    return Scales(by=exact(-1))


@rule("Deg2RadBackward0")
def deg2rad(node: NodeFacts) -> Effect:
    """d (x pi / 180)."""
    return Scales(by=math.pi / 180)


@rule("Rad2DegBackward0")
def rad2deg(node: NodeFacts) -> Effect:
    """d (x 180 / pi)."""
    return Scales(by=180 / math.pi)


@rule("FmodBackward0", "FmodBackward1", "RemainderBackward0", "RemainderBackward1")
def remainder(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a - b q) is da - q db, q being whole."""
    return per_output(node, Moves(), Elementwise())


@rule("FracBackward0")
def frac(node: NodeFacts) -> Effect:
    """d (x - trunc x) is dx."""
    return Moves()


@rule("CopysignBackward0", "NextafterBackward0")
def sign_of(node: NodeFacts) -> tuple[Effect, ...]:
    """The first operand passes with a sign (or unless equal), the second has no derivative."""
    return per_output(node, Elementwise(), ZERO)


@rule("AddcmulBackward0", "AddcdivBackward0")
def addc(node: NodeFacts) -> tuple[Effect, ...]:
    """d (a + value b c) is da + value (c db + b dc); with 1/c instead of c for addcdiv."""
    return per_output(node, Moves(), Elementwise(), Elementwise())


@rule(
    "BernoulliBackward0",
    "BernoulliBackward1",
    "BernoulliBackward2",
    "CauchyBackward0",
    "CeilBackward0",
    "EqBackward0",
    "EqBackward1",
    "ExponentialBackward0",
    "FillBackward0",
    "FillBackward2",
    "FloorBackward0",
    "GeBackward0",
    "GeBackward1",
    "GeometricBackward0",
    "GtBackward0",
    "GtBackward1",
    "LeBackward0",
    "LeBackward1",
    "LogNormalBackward0",
    "LtBackward0",
    "LtBackward1",
    "NeBackward0",
    "NeBackward1",
    "NormalBackward0",
    "NormalBackward1",
    "NormalBackward2",
    "NormalBackward3",
    "PoissonBackward0",
    "RandomBackward0",
    "RandomBackward1",
    "RandomBackward2",
    "RoundBackward0",
    "RoundBackward1",
    "SignBackward0",
    "TruncBackward0",
    "UniformBackward0",
    "ZeroBackward0",
)
def flat(node: NodeFacts) -> Effect:
    """Steps, comparisons, overwrites and random draws have derivative 0."""
    return ZERO


@rule("FillBackward1", "FillBackward3")
def fill(node: NodeFacts) -> tuple[Effect, ...]:
    """What was there is gone; the value was broadcast to every element."""
    return per_output(node, ZERO, Moves())
