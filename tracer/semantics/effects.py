"""What a backward node can do to the gradient it receives, as frozen dataclasses.

An effect speaks of one output of a node: how what is sent there comes from what was received.
It never says more than its rule knows: a count, a factor or a law that is not known is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal, Union

__all__ = [
    "Averages",
    "Broadcasts",
    "Claims",
    "Contracts",
    "Distributes",
    "Effect",
    "Elementwise",
    "Exact",
    "Gathers",
    "LossReduction",
    "Moves",
    "Normalises",
    "Nothing",
    "Opaque",
    "Reduces",
    "Reduction",
    "Replicates",
    "Scales",
    "ScatterAdds",
    "Scatters",
    "Selects",
    "Sums",
    "exact",
    "reciprocal",
    "shown",
]

Exact = Union[Fraction, float]
"""A factor: a fraction where the number is one that a person would write so, else a float."""

Claims = Literal["each", "together", "nothing"]
"""To what the law of an effect applies: to each output, to all of a node together, to nothing."""

Reduction = Literal["none", "mean", "sum", "weighted-mean"]

LARGEST_DENOMINATOR = 2**20
"""Binary fractions up to here are meant (a loss scale, 1/64); 0.1 as a double is not."""


def exact(value: float) -> Exact:
    """The number as a fraction where it is a plain one (8, 0.5, 65536.0), else as it is."""
    if value != value or value in (float("inf"), float("-inf")):
        return float(value)
    fraction = Fraction(value)
    return fraction if fraction.denominator <= LARGEST_DENOMINATOR else float(value)


def reciprocal(value: float) -> Exact | None:
    """One over the number, None where there is no such number."""
    if value == 0 or value != value:
        return None
    plain = exact(value)
    return Fraction(1) / plain if isinstance(plain, Fraction) else 1.0 / plain


def shown(value: Exact) -> str:
    """The number as a label has it: "8", "1/8", "0.3125"."""
    return str(value) if isinstance(value, Fraction) else f"{value:.6g}"


@dataclass(frozen=True)
class Effect:
    """What happens to a gradient on the way to one output of a node.

    `then_sums` is how many contributions are added into each element afterwards, because the
    operator broadcast this operand in the forward pass: 1 where it did not. `claims` says to what
    the law (`sum_factor`) applies.
    """

    kind: ClassVar[str] = "effect"
    law: ClassVar[Exact | None] = None

    then_sums: int = field(default=1, kw_only=True)
    claims: Claims = field(default="each", kw_only=True)

    @property
    def factor(self) -> Exact | None:
        """By what every contribution is multiplied, None where that differs or is not known."""
        return None

    @property
    def count(self) -> int | None:
        """The number that belongs to the kind: averaged over, summed over, None without one."""
        return self.then_sums if self.then_sums != 1 else None

    @property
    def summed(self) -> int | None:
        """How many contributions are added into one element: 1 for none, None if not known."""
        return self.then_sums

    @property
    def own_law(self) -> Exact | None:
        """The law before `claims` says where it applies."""
        return self.law

    @property
    def sum_factor(self) -> Exact | None:
        """The law: sum(sent) == sum_factor * sum(received); None where none is claimed.

        Received are all inputs of the node together; of complex gradients the real part counts.
        """
        return self.own_law if self.claims == "each" else None

    @property
    def words(self) -> str:
        """A few words for a label."""
        return self._and_sums(self._words())

    def _words(self) -> str:
        return self.kind

    def _and_sums(self, words: str) -> str:
        return words if self.then_sums == 1 else f"{words}, sum of {self.then_sums}"


@dataclass(frozen=True)
class Nothing(Effect):
    """No gradient is sent along this output."""

    kind: ClassVar[str] = "nothing"

    def _words(self) -> str:
        return "no gradient"


@dataclass(frozen=True)
class Opaque(Effect):
    """It cannot be said, and why."""

    kind: ClassVar[str] = "opaque"

    reason: str = ""

    @property
    def summed(self) -> int | None:
        return None

    def _words(self) -> str:
        return "opaque"


@dataclass(frozen=True)
class Averages(Effect):
    """Each element gets 1/`over` of what was received: the backward of a mean."""

    kind: ClassVar[str] = "averages"
    law: ClassVar[Exact | None] = Fraction(1)

    over: int = 0

    @property
    def factor(self) -> Exact | None:
        return reciprocal(self.over)

    @property
    def count(self) -> int | None:
        return self.over

    def _words(self) -> str:
        return f"mean of {self.over}"


@dataclass(frozen=True)
class Broadcasts(Effect):
    """Each of `over` elements gets the whole of what was received: the backward of a sum."""

    kind: ClassVar[str] = "broadcasts"

    over: int = 0

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    @property
    def count(self) -> int | None:
        return self.over

    @property
    def own_law(self) -> Exact | None:
        return Fraction(self.over)

    def _words(self) -> str:
        return f"sum over {self.over} items"


@dataclass(frozen=True)
class Sums(Effect):
    """`over` contributions are added into each element: the backward of a broadcast."""

    kind: ClassVar[str] = "sums"
    law: ClassVar[Exact | None] = Fraction(1)

    over: int = 0

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    @property
    def count(self) -> int | None:
        return self.over

    @property
    def summed(self) -> int | None:
        return self.over

    def _words(self) -> str:
        return f"sum of {self.over}"


@dataclass(frozen=True)
class ScatterAdds(Effect):
    """Each element goes back to the place it was read from; places read twice add up."""

    kind: ClassVar[str] = "scatter-adds"
    law: ClassVar[Exact | None] = Fraction(1)

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    @property
    def summed(self) -> int | None:
        return None

    def _words(self) -> str:
        return "adds at indices"


@dataclass(frozen=True)
class Selects(Effect):
    """Each element goes whole to the place that was chosen: the backward of max, sort, where.

    Under overlapping windows (max pooling) a place that was chosen twice adds up.
    """

    kind: ClassVar[str] = "selects"
    law: ClassVar[Exact | None] = Fraction(1)

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    def _words(self) -> str:
        return "to the chosen"


@dataclass(frozen=True)
class Distributes(Effect):
    """Each element is spread over several places with weights that add up to one."""

    kind: ClassVar[str] = "distributes"
    law: ClassVar[Exact | None] = Fraction(1)

    def _words(self) -> str:
        return "spreads"


@dataclass(frozen=True)
class Scales(Effect):
    """Every element is multiplied by `by`."""

    kind: ClassVar[str] = "scales"

    by: Exact = Fraction(1)

    @property
    def factor(self) -> Exact | None:
        return self.by

    @property
    def own_law(self) -> Exact | None:
        return self.by

    def _words(self) -> str:
        return f"x {shown(self.by)}"


@dataclass(frozen=True)
class Moves(Effect):
    """The same numbers elsewhere: views, permutations, copies, casts, parts of a whole."""

    kind: ClassVar[str] = "moves"
    law: ClassVar[Exact | None] = Fraction(1)

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    def _words(self) -> str:
        return "moves"


@dataclass(frozen=True)
class Gathers(Moves):
    """The gradients of the chunks on several devices are put together again."""

    kind: ClassVar[str] = "gathers"

    def _words(self) -> str:
        return "gathers"


@dataclass(frozen=True)
class Scatters(Moves):
    """Each device gets the gradient of its own chunk."""

    kind: ClassVar[str] = "scatters"

    def _words(self) -> str:
        return "scatters"


@dataclass(frozen=True)
class Replicates(Effect):
    """Each of `over` devices gets the whole gradient."""

    kind: ClassVar[str] = "replicates"

    over: int | None = None

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    @property
    def count(self) -> int | None:
        return self.over

    def _words(self) -> str:
        return "replicates" if self.over is None else f"replicates to {self.over}"


@dataclass(frozen=True)
class Reduces(Effect):
    """The gradients of `over` replicas, or of the ranks, are added."""

    kind: ClassVar[str] = "reduces"
    law: ClassVar[Exact | None] = Fraction(1)

    over: int | None = None
    across: Literal["replicas", "ranks"] = "replicas"

    @property
    def factor(self) -> Exact | None:
        return Fraction(1)

    @property
    def count(self) -> int | None:
        return self.over

    @property
    def summed(self) -> int | None:
        return self.over

    def _words(self) -> str:
        return f"sum of {'' if self.over is None else f'{self.over} '}{self.across}"


@dataclass(frozen=True)
class Elementwise(Effect):
    """Each element is multiplied by its own derivative."""

    kind: ClassVar[str] = "elementwise"

    def _words(self) -> str:
        return "elementwise"


@dataclass(frozen=True)
class Normalises(Effect):
    """The items that were normalised together are coupled; what is sent to them adds up to 0."""

    kind: ClassVar[str] = "normalises"
    law: ClassVar[Exact | None] = Fraction(0)

    def _words(self) -> str:
        return "normalises"


@dataclass(frozen=True)
class Contracts(Effect):
    """Each element is a sum of `over` products, the backward of a matrix product."""

    kind: ClassVar[str] = "contracts"

    over: int | None = None

    @property
    def count(self) -> int | None:
        return self.over

    @property
    def summed(self) -> int | None:
        return None if self.over is None else self.over * self.then_sums

    def _words(self) -> str:
        return "contracts" if self.over is None else f"contracts {self.over}"


@dataclass(frozen=True)
class LossReduction(Effect):
    """The derivative of a fused loss, with its reduction.

    `over` is the denominator of a mean (the sum of the weights of a weighted one) and the number
    of items otherwise; None if it is not known. `items` is how many elements were reduced.
    """

    kind: ClassVar[str] = "loss-reduction"

    reduction: Reduction = "none"
    over: Exact | int | None = None
    items: int | None = None

    @property
    def divides(self) -> bool:
        return self.reduction in ("mean", "weighted-mean")

    @property
    def factor(self) -> Exact | None:
        """What the reduction alone multiplies by; the derivative of the loss comes on top."""
        if not self.divides:
            return Fraction(1)
        return None if self.over is None else reciprocal(float(self.over))

    @property
    def count(self) -> int | None:
        whole = self.over is not None and self.over == int(self.over)
        return int(self.over) if whole and self.over is not None else self.items

    def _words(self) -> str:
        if self.reduction == "none":
            return "loss per item"
        count = "?" if self.over is None else shown(exact(float(self.over)))
        kind = "weighted mean" if self.reduction == "weighted-mean" else self.reduction
        return f"{kind} of {count}"
