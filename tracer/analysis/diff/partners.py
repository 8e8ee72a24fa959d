"""Which parameter of one run is which of the other: by name, then by shape and order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial

from tracer.events import Buffer, Shape

__all__ = ["Partners", "Partnership", "partners"]

WRAPPERS = frozenset(
    {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_wrapped_module"}
)
"""Components that a wrapper adds to the names of the model inside it."""

LONGEST = 6
"""Components of a name that are compared from its end: at least a module's and the parameter's."""


@dataclass(frozen=True)
class Partnership:
    """Two buffers that are the same parameter.

    `how` is "name", "wrapper" (the same but for a wrapper's component), "end" (the module and the
    parameter are called the same, what is around them is not) or "shape" (shape and order).
    """

    a: int
    b: int
    name_a: str
    name_b: str
    how: str


@dataclass(frozen=True)
class Partners:
    """Everything matched, and what is left of each side; `reshaped` have one name, two shapes."""

    pairs: tuple[Partnership, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reshaped: tuple[tuple[str, Shape, Shape], ...] = ()


@dataclass(frozen=True)
class Named:
    """A buffer by the name that its trace gives it."""

    id: int
    name: str
    shape: Shape

    @property
    def plain(self) -> str:
        return ".".join(part for part in self.name.split(".") if part not in WRAPPERS)

    def end(self, length: int) -> str:
        """The last components of the name, "" where it has fewer."""
        parts = self.plain.split(".")
        return ".".join(parts[-length:]) if len(parts) >= length else ""

    @property
    def form(self) -> tuple[str, Shape]:
        """What it is of its layer, and its shape: the bias of one is not the weight of another."""
        return (self.name.rpartition(".")[2] if "." in self.name else "", self.shape)


Key = Callable[[Named], object]
RULES: tuple[tuple[str, Key], ...] = (
    ("name", lambda one: one.name),
    ("wrapper", lambda one: one.plain),
    *(("end", partial(Named.end, length=length)) for length in range(LONGEST, 1, -1)),
    ("shape", lambda one: one.form),
)


def partners(a: Mapping[str, Buffer], b: Mapping[str, Buffer]) -> Partners:
    """Match the buffers of two runs, given by name and in order; each has one partner at most."""
    left = [Named(one.id, name, one.shape) for name, one in a.items()]
    right = [Named(one.id, name, one.shape) for name, one in b.items()]
    pairs: list[Partnership] = []
    reshaped: list[tuple[str, Shape, Shape]] = []
    for how, key in RULES:
        for one, other in _alike(left, right, key):
            if one.shape != other.shape and how == "name":
                reshaped.append((one.name, one.shape, other.shape))
            elif one.shape != other.shape:
                continue
            else:
                pairs.append(Partnership(one.id, other.id, one.name, other.name, how))
            left.remove(one)
            right.remove(other)
    for one, other in _in_order(left, right):
        pairs.append(Partnership(one.id, other.id, one.name, other.name, "shape"))
        left.remove(one)
        right.remove(other)
    places = {name: place for place, name in enumerate(a)}
    return Partners(
        tuple(sorted(pairs, key=lambda pair: places[pair.name_a])),
        tuple(one.name for one in left), tuple(one.name for one in right), tuple(reshaped),
    )  # fmt: skip


def _alike(left: list[Named], right: list[Named], key: Key) -> list[tuple[Named, Named]]:
    """Those that share a key with exactly one on the other side."""
    counts = [Counter(map(key, side)) for side in (left, right)]
    others = {key(one): one for one in right}
    return [
        (one, others[key(one)])
        for one in left
        if key(one) and key(one) in others and all(count[key(one)] == 1 for count in counts)
    ]


def _in_order(left: list[Named], right: list[Named]) -> list[tuple[Named, Named]]:
    """Equal runs of shapes, in the order in which the parameters come."""
    blocks = SequenceMatcher(
        None, [one.form for one in left], [one.form for one in right], autojunk=False
    ).get_matching_blocks()
    return [(left[i + n], right[j + n]) for i, j, size in blocks for n in range(size)]
