"""Random losses, and what each of their items truly weighs in what an optimizer consumes.

A program is lines of Python, one operation each, drawn and kept if torch takes them. The weight of
an element of a line is measured from outside: the program runs again, and in one backward call the
gradient of this one element is doubled where it arrives. What is consumed is linear in that, so the
difference is exactly (its weight) x (its own gradient), whatever came before and after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

import tracer
from tracer.analysis.callfacts import CallFacts
from tracer.analysis.explain import Explainer
from tracer.analysis.ledger import Books, Row
from tracer.analysis.strand import OF_ITEMS, Ended

__all__ = ["Loss", "losses", "wrong_claims"]

PRELUDE = "from tests.trust.parts import *"

LEAVES = ("3", "4", "2, 3", "3, 2", "1", "1, 4")

NETWORK = (
    "torch.tanh({a})", "{a}.square()", "{a}.exp()", "{a}.sin()", "{a} * 3", "{a} - 0.3",
    "{a}.sigmoid()", "{a} * {b}", "{a} + {b}", "F.softmax({a}, -1)",
    "{a} @ torch.ones({a}.shape[-1], 2, dtype=torch.float64)",
)  # fmt: skip

VIEWS = (
    "{a}.reshape(-1)", "{a}[1:]", "{a}[-1]", "{a}.unsqueeze(0)", "{a}.unsqueeze(-1)", "{a}.mT",
    "{a}.expand(3, *{a}.shape)", "{a}.diagonal()", "{a}.flip(0)", "{a}.repeat_interleave(2, 0)",
    "{a}[[0, -1]]", "{a}[[0, 0, -1]]", "{a}.unbind(0)[0]", "{a}.split(2)[0]", "F.pad({a}, (0, 1))",
    "torch.cat([{a}, {b}])", "torch.stack([{a}, {b}])", "{a}.clone()", "{a}.tril()",
    "{a}.squeeze()", "{a}.masked_fill({a} > 0.4, 0.0)", "{a}[{a} > 0.2]",
    "{a} * torch.ones_like({a}).tril()",
)  # fmt: skip

SCALINGS = (
    "{a} * 0.5", "{a} / 3", "-{a}", "2 * {a}", "{a} / {a}.numel()", "{a} / len({a})", "{a} + 1.5",
    "1 - {a}", "{a} - {b}", "{a} + {b}", "torch.add({a}, {b}, alpha=0.1)", "{a} * numbers({a})",
    "{a} / numbers({a})", "{a} @ numbers({a})", "{a}.sqrt()", "{a}.log1p()",
)  # fmt: skip

REDUCTIONS = (
    "{a}.sum()", "{a}.mean()", "{a}.sum(0)", "{a}.mean(0)", "{a}.mean(-1)", "{a}.sum(-1)",
    "{a}.mean(-1, keepdim=True)", "{a}.nanmean()", "torch.mean({a})", "{a}.sum((0, 1))",
    "torch.dot({a}, numbers({a}))", "{a}.cumsum(0)[-1]", "torch.trace({a})", "{a}.norm()",
    "{a}.max()", "{a}.logsumexp(0)",
)  # fmt: skip

IN_PLACE = ("{a}.mul_(0.5)", "{a}.add_({b})", "{a}.div_(3)", "{a}.neg_()", "{a}.sub_(0.1)")

FUSED = (
    ("F.mse_loss({a}, {a}.detach() - 1, reduction='%s')", ("mean", "sum")),
    ("F.l1_loss({a}, {a}.detach() - 0.5, reduction='%s')", ("mean", "sum")),
    ("F.smooth_l1_loss({a}, {a}.detach() - 0.5, reduction='%s')", ("mean", "sum")),
    ("F.cross_entropy({a}, labels({a}), reduction='%s')", ("mean", "sum")),
    ("F.binary_cross_entropy_with_logits({a}, torch.ones_like({a}), reduction='%s')",
     ("mean", "sum")),
)  # fmt: skip

HOOKS = (
    "{a}.register_hook(halve)", "{leaf}.register_hook(halve)",
    "{leaf}.register_post_accumulate_grad_hook(shrink)",
)  # fmt: skip

CALLS = (
    "{a}.backward(retain_graph=True)", "{a}.sum().backward(retain_graph=True)",
    "{a}.backward(torch.ones_like({a}), retain_graph=True)",
    "{a}.backward(numbers({a}), retain_graph=True)",
    "torch.autograd.backward([{a}, {b}], retain_graph=True)",
)  # fmt: skip

BETWEEN = (
    "{leaf}.grad.mul_(0.5)", "{leaf}.grad /= 3", "optimizer.zero_grad()",
    "{leaf}.grad = {leaf}.grad * 0.25",
)  # fmt: skip

KINDS = (
    (NETWORK, "new"), (VIEWS, "new"), (SCALINGS, "new"), (SCALINGS, "new"), (REDUCTIONS, "new"),
    (REDUCTIONS, "new"), (FUSED, "fused"), (IN_PLACE, "new"), (HOOKS, "hook"), (CALLS, "call"),
    (BETWEEN, "between"),
)  # fmt: skip

LEAST_LINES, MOST_LINES = 4, 14
MOST_ELEMENTS = 24


@dataclass(frozen=True)
class Line:
    """A line as it is recorded, and the name it makes. `items` are those of a fused loss."""

    text: str
    kind: str
    name: str = ""
    items: str = ""


@dataclass(frozen=True)
class Loss:
    """A random program; its first line is the prelude, so `lines[0]` stands in line 2."""

    lines: tuple[Line, ...]
    leaves: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(line.text for line in self.lines)

    def __repr__(self) -> str:
        return "\n".join(["Loss:", *(f"    {line.text}" for line in self.lines)])


@st.composite
def losses(draw: st.DrawFn) -> Loss:
    """One or two leaves, lines that torch takes, at least one call, and a step."""
    space = fresh()
    lines: list[Line] = []
    leaves = ("w", "v")[: draw(st.integers(1, 2))]
    for name in leaves:
        shape = draw(st.sampled_from(LEAVES))
        keep(Line(f"{name} = leaf({shape}, dtype=torch.float64)", "new", name), space, lines)
    keep(Line(f"optimizer = torch.optim.SGD([{', '.join(leaves)}], lr=0.1)", "plain"), space, lines)
    # What a leaf itself is made of has no line to look behind.
    for name in leaves:
        text = draw(st.sampled_from(NETWORK)).format(a=name, b=name)
        keep(Line(f"{name}0 = {text}", "new", f"{name}0"), space, lines)
    for number in range(draw(st.integers(LEAST_LINES, MOST_LINES))):
        grow(draw, space, lines, leaves, number)
    if not any(line.kind == "call" for line in lines):
        last = list(tensors(space))[-1]
        keep(Line(f"t99 = {last}.mean()", "new", "t99"), space, lines)
        keep(Line("t99.backward()", "call"), space, lines)
    assume(any(line.kind == "call" for line in lines))
    return Loss((*lines, Line("optimizer.step()", "step")), leaves)


def grow(
    draw: st.DrawFn, space: dict[str, Any], lines: list[Line], leaves: tuple[str, ...], number: int
) -> None:
    table, kind = draw(st.sampled_from(KINDS))
    names = list(tensors(space))[::-1]
    names = names[: draw(st.sampled_from((1, 2, 40)))]
    given = {"a": draw(st.sampled_from(names)), "b": draw(st.sampled_from(names)),
             "leaf": draw(st.sampled_from(leaves))}  # fmt: skip
    chosen, name = draw(st.sampled_from(table)), f"t{number}"
    if kind == "fused":
        text, reductions = chosen
        how = draw(st.sampled_from(reductions))
        items = (text % "none").format(**given)
        keep(Line(f"{name} = {(text % how).format(**given)}", how, name, items), space, lines)
    elif kind == "new":
        keep(Line(f"{name} = {chosen.format(**given)}", kind, name), space, lines)
    else:
        keep(Line(chosen.format(**given), kind), space, lines)


def fresh() -> dict[str, Any]:
    torch.manual_seed(0)
    space: dict[str, Any] = {"numbers": numbers}
    exec(PRELUDE, space)
    return space


def numbers(like: Tensor) -> Tensor:
    """Different constants in the shape of a tensor."""
    return torch.linspace(0.5, 2, like.numel(), dtype=torch.float64).view(like.shape)


def tensors(space: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in space.items() if isinstance(value, Tensor)}


def keep(line: Line, space: dict[str, Any], lines: list[Line]) -> None:
    """Run a line and keep it, unless torch does not take it or its result is of no use."""
    try:
        exec(line.text, space)
    except Exception:  # noqa: BLE001 - whatever torch says to a random line
        return
    made = space.get(line.name)
    if isinstance(made, Tensor) and not is_of_use(made):
        del space[line.name]
        return
    lines.append(line)


def is_of_use(made: Tensor) -> bool:
    is_small = 0 < made.numel() <= MOST_ELEMENTS
    return is_small and made.requires_grad and bool(made.isfinite().all())


# What truly is.


@dataclass
class Gate:
    """Doubles the gradient of one element of a line's result, in one backward call."""

    call: int
    place: int
    now: int = 0

    def __call__(self, gradient: Tensor) -> Tensor | None:
        if self.now != self.call:
            return None
        found = gradient.clone(memory_format=torch.contiguous_format)
        found.view(-1)[self.place] *= 2
        return found


def consumed(loss: Loss, leaf: str, at: int = -1, gate: Gate | None = None) -> Tensor:
    """What the step consumes of a leaf; with a gate behind line `at`."""
    space = fresh()
    call = 0
    for number, line in enumerate(loss.lines):
        if line.kind == "step":
            break
        if line.kind == "call":
            call += 1
            if gate is not None:
                gate.now = call
        run(line, space, number == at)
        if number == at and gate is not None:
            space["items"].register_hook(gate)
    grad = space[leaf].grad
    return torch.zeros_like(space[leaf]) if grad is None else grad.detach()


def run(line: Line, space: dict[str, Any], is_looked_at: bool) -> None:
    """Run a line; `items` is its result, or of a fused loss what it reduces."""
    if is_looked_at and line.items:
        exec(f"items = {line.items}; {line.name} = items.{line.kind}()", space)
        return
    exec(line.text, space)
    if is_looked_at:
        space["items"] = space[line.name]


def owns(loss: Loss, leaf: str, at: int) -> list[Tensor]:
    """The gradient of each element of a line by itself, that no hook changes."""
    space = fresh()
    for number, line in enumerate(loss.lines[: at + 1]):
        if line.kind not in ("hook", "call", "between"):
            run(line, space, number == at)
    items = space["items"]
    found = []
    for place in range(items.numel()):
        one = torch.zeros(items.shape, dtype=items.dtype)
        one.view(-1)[place] = 1
        (own,) = torch.autograd.grad(
            items, space[leaf], one, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found.append(own)
    return found


def weights(loss: Loss, leaf: str, at: int, call: int) -> list[float | str | None]:
    """Of each element its weight; None where it moves nothing that can be compared by itself.

    Words if what it moves is no multiple of its own gradient.
    """
    plain = consumed(loss, leaf)
    found: list[float | str | None] = []
    for place, own in enumerate(owns(loss, leaf, at)):
        more = consumed(loss, leaf, at, Gate(call, place)) - plain
        size = float((own * own).sum())
        if size < 1e-12 or not bool(more.isfinite().all() and own.isfinite().all()):
            found.append(None)
            continue
        weight = float((more * own).sum()) / size
        is_multiple = torch.allclose(more, weight * own, rtol=1e-6, atol=1e-9)
        found.append(weight if is_multiple else "not a multiple of its own gradient")
    return found


# What is claimed.


@dataclass(frozen=True)
class Place:
    """Where items were made: a line, in a backward call."""

    leaf: str
    line: int
    call: int


def claims(loss: Loss, folder: Path, seen: Counter[str]) -> Iterator[tuple[Place, list[Row]]]:
    """The rows of the ledgers by the place of their items, where all of these are claims."""
    script, trace = folder / "loss.py", folder / "loss.trace"
    script.write_text("\n".join([PRELUDE, *(line.text for line in loss.lines)]))
    space = fresh()
    with tracer.Recorder(trace):
        exec(compile(script.read_text(), str(script), "exec"), space)
    with tracer.load(trace) as found:
        explainer = Explainer(found)
        for leaf in loss.leaves:
            if leaf in explainer.books.by_name and space[leaf].grad is not None:
                yield from by_place(leaf, explainer, seen)


def by_place(
    leaf: str, explainer: Explainer, seen: Counter[str]
) -> Iterator[tuple[Place, list[Row]]]:
    ledger = explainer.parameter(leaf)[-1].ledger
    found: dict[Place, list[Row]] = {}
    unclear: set[Place] = set()
    for row in ledger.rows:
        place, why = place_of(leaf, row, explainer.books)
        if row.weight is None:
            seen["unknown"] += 1
            unclear.add(place)
        elif why:
            seen[why] += 1
            unclear.add(place)
        found.setdefault(place, []).append(row)
    for place, rows in found.items():
        if place not in unclear:
            yield place, rows


def place_of(leaf: str, row: Row, books: Books) -> tuple[Place, str]:
    """Where the items of a row were made, and why they cannot be compared there."""
    flow = books.flow(row.call)
    ended: Ended = flow.sites[(row.call, row.site)]
    node = flow.facts.node(ended.node)
    leaving = {sent.number for sent in flow.facts.leaving.get(ended.node, ())}
    source = books.trace.sources.get(node.source) if node.source is not None else None
    place = Place(leaf, -1 if source is None else source.line - 2, row.number)
    if node.buffer is not None or source is None:
        return place, "elements of the leaf itself"
    if ended.edges != leaving or is_beside_others(flow.facts, ended, flow.sites.values()):
        return place, "of several operands"
    if row.made or {factor.kind for factor in ended.strand.since} - {*OF_ITEMS, "scale"}:
        return place, "a function of one number"
    return place, ""


def is_beside_others(facts: CallFacts, ended: Ended, all_ended: Iterable[Ended]) -> bool:
    """Whether what the node of these items received came partly from below other items."""
    others = {one.node for one in all_ended if one is not ended}
    stack, above = [ended.node], set[int]()
    while stack:
        for sent in facts.arriving.get(stack.pop(), ()):
            if sent.edge.sender not in above:
                above.add(sent.edge.sender)
                stack.append(sent.edge.sender)
    return bool(others & above)


def wrong_claims(loss: Loss, folder: Path, seen: Counter[str]) -> list[str]:
    """What the ledger says of items that is not so."""
    found = []
    for place, rows in claims(loss, folder, seen):
        if loss.lines[place.line].kind not in ("new", "mean", "sum"):
            seen["a sum inside a call"] += len(rows)
            continue
        true = weights(loss, place.leaf, place.line, place.call)
        said = compare(rows, true, seen)
        if said:
            line = loss.lines[place.line].text
            found.append(f"{place.leaf}, call {place.call}, `{line}`: {said}; true {true}")
    return found


def compare(rows: list[Row], true: list[float | str | None], seen: Counter[str]) -> str:
    """What is wrong with the claims about the elements of one place, "" if nothing is."""
    if any(isinstance(weight, str) for weight in true):
        return f"{[str(row.weight) for row in rows]} claimed, no multiple"
    known = [weight for weight in true if isinstance(weight, float)]
    size = max((abs(weight) for weight in known), default=0.0)
    near = 2e-5 * max(size, 1e-3)
    live = [weight for weight in known if abs(weight) > near]
    if all(is_for_all(row, len(true)) for row in rows):
        claimed = sum(signed(row) for row in rows)
        seen["of one weight"] += len(rows)
        return "" if known == pytest.approx([claimed] * len(known), abs=near) else f"{claimed} each"
    if len(rows) > 1 or len(known) < len(true):
        seen["of several sums, or not told apart by the network"] += len(rows)
        return ""
    (row,) = rows
    if not live:
        seen["of no gradient at all"] += 1
        return ""
    if row.items != len(live):
        return f"{row.items} items, {row.masked} masked"
    ends = ends_of(row)
    if ends is None:
        seen["counted only"] += 1
        return ""
    seen["of several weights, or masked"] += 1
    return "" if (min(live), max(live)) == pytest.approx(ends, abs=near) else f"{ends} claimed"


def is_for_all(row: Row, elements: int) -> bool:
    return row.items == elements and not row.is_uneven and not row.masked and row.own is None


def signed(row: Row) -> float:
    """The weight with the sign that belongs to the item."""
    assert row.weight is not None
    return float(-row.weight if row.is_turned else row.weight)


def ends_of(row: Row) -> tuple[float, float] | None:
    """The least and the largest weight that a row claims, the item's own numbers included."""
    if row.own is not None:
        return None if row.own.least is None else (row.own.least, row.own.largest)
    if any(factor.kind == "own" for factor in row.inside):
        return None
    if not row.is_uneven:
        return (signed(row), signed(row))
    if row.least is None or row.largest is None:
        return None
    return (-row.largest, -row.least) if row.is_turned else (row.least, row.largest)
