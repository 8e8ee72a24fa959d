"""Random programs that use autograd in every way: a list of lines of Python, readable when shrunk.

A line is drawn, tried, and kept if torch takes it, so that shapes are known while the program
grows. What ends up in a program has run once; `run` runs it again from its text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

__all__ = ["Program", "program_of", "programs", "run"]

PRELUDE = "from tests.trust.parts import *"

UNARY = (
    "torch.tanh({a})", "{a}.sin()", "{a}.clamp(max=2).exp()", "{a}.relu()", "{a}.abs()",
    "({a}.abs() + 1).sqrt()", "{a}.sigmoid()", "-{a}", "{a} * 0.5", "{a} / 3",
    "2 / ({a} ** 2 + 1)", "{a} ** 2", "{a} + 1.5", "{a} * 1", "{a}.clamp(-1, 1)",
    "F.softmax({a}, -1)", "F.gelu({a})", "F.dropout({a}, 0.5)",
    "F.layer_norm({a}, {a}.shape[-1:])", "{a}.cumsum(0)", "{a}.cumprod(-1)",
    "F.log_softmax({a}, 0)", "{a}.sgn()", "{a}.clone()", "{a}.detach()", "{a}.float()",
    "{a}.double()", "{a}.bfloat16()", "torch.view_as_real(torch.fft.fft({a}))",
    "torch.complex({a}, {a} * 2).abs()", "Scaled.apply({a}, 0.25)", "Doubled.apply({a})[0]",
    "sum(Doubled.apply({a}))", "Straight.apply({a})", "checkpointed({a})", "reentrant({a})",
    "{a}.nan_to_num()", "torch.where({a} > 0, {a}, 0.1 * {a})", "{a}.masked_fill({a} > 0.5, 0.0)",
    "without_gradient({a})", "constant({a})", "hook({a}, halve) and {a} * 2",
    "hooked({a})", "F.normalize({a}, dim=-1)", "{a}.sort(-1)[0]", "{a}.topk(1, -1)[0]",
)  # fmt: skip

VIEWS = (
    "{a}.reshape(-1)", "{a}[::2]", "{a}[-1]", "{a}[..., :1]", "{a}.unsqueeze(0)",
    "{a}.unsqueeze(-1)", "{a}.squeeze()", "{a}.mT", "{a}.transpose(0, -1)",
    "{a}.expand(3, *{a}.shape)", "{a}.unsqueeze(0).expand(2, *{a}.shape)", "{a}.unfold(-1, 2, 1)",
    "{a}.diagonal()", "{a}.split(1)[0]", "{a}.chunk(2, -1)[-1]", "{a}.unbind(0)[0]",
    "{a}.movedim(0, -1)", "{a}.flip(0)", "{a}.roll(1, -1)",
    "{a}.repeat(2, *(1 for _ in {a}.shape))", "F.pad({a}, (1, 1))", "{a}.tril()",
    "torch.cat([{a}, {a}])", "torch.stack([{a}, {a} * 2], -1)", "{a}[[0, 0, -1]]",
    "{a}[..., [0, 0]]", "{a}.index_select(0, torch.tensor([0, 0]))",
    "{a}.gather(0, torch.zeros_like({a}, dtype=torch.int64))", "{a}[{a} > 0]",
    "{a}.take(torch.tensor([0, 0, 1]))", "{a}.repeat_interleave(2, 0)", "{a}.narrow(0, 0, 1)",
    "F.embedding(torch.tensor([[0, 1], [1, 1]]), {a})", "torch.tensor_split({a}, 2)[0]",
    "{a}.contiguous()", "{a}.as_strided((1,), (1,))", "torch.stack(torch.unbind({a}, -1))",
)  # fmt: skip

BINARY = (
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / ({b} ** 2 + 1)", "torch.maximum({a}, {b})",
    "torch.where({a} > {b}, {a}, {b})", "{a} @ {b}", "{a} @ {b}.mT", "torch.outer({a}, {b})",
    "torch.addcmul({a}, {a}, {b}, value=0.3)", "torch.lerp({a}, {b}, 0.25)", "F.linear({a}, {b})",
    "torch.cat([{a}, {b}])", "torch.stack([{a}, {b}])", "torch.einsum('ij,kj->ik', {a}, {b})",
    "{a} + {b}.detach()", "torch.hypot({a} + 3, {b})", "F.mse_loss({a}, {b})",
    "F.l1_loss({a}, {b}, reduction='sum')", "{a}.index_add(0, torch.tensor([0]), {b}[:1])",
    "{a}.scatter_add(0, torch.zeros_like({b}, dtype=torch.int64), {b})",
    "torch.utils.checkpoint.checkpoint(torch.mul, {a}, {b}, use_reentrant=False)",
)  # fmt: skip

REDUCTIONS = (
    "{a}.sum()", "{a}.mean()", "{a}.sum(0)", "{a}.mean(-1)", "{a}.sum(-1, keepdim=True)",
    "{a}.mean(0, keepdim=True)", "{a}.prod()", "{a}.prod(-1)", "{a}.max()", "{a}.min(0)[0]",
    "{a}.amax(-1)", "{a}.logsumexp(-1)", "{a}.norm()", "{a}.norm(dim=0)", "{a}.var()",
    "{a}.std(0)", "{a}.median()", "{a}.nansum(0)", "{a}.nanmean()",
    "F.cross_entropy({a}, labels({a}))", "F.cross_entropy({a}, labels({a}), reduction='sum')",
    "F.smooth_l1_loss({a}, {a}.detach() * 0.5)",
    "F.nll_loss(F.log_softmax({a}, -1), labels({a}))", "torch.trace({a})", "{a}.cumsum(0)[-1]",
    "F.binary_cross_entropy_with_logits({a}, torch.ones_like({a}))",
    "{a}.abs().sum() / {a}.numel()",
)  # fmt: skip

IN_PLACE = (
    "{a}.mul_(2)", "{a}.add_({b})", "{a}[:1] *= 3", "{a}[0] = {b}", "{a}.view(-1)[:1].mul_(0.5)",
    "{a}.t_()", "{a}.tanh_()", "{a}.relu_()", "{a}.zero_()", "{a}.masked_fill_({a} > 0, 1.0)",
    "{a}.copy_({b})", "{a}.index_add_(0, torch.tensor([0, 0]), {b})", "{a}.squeeze_()",
    "{a}.detach_()", "{a}.data.mul_(0.5)", "{a}.clamp_(-1, 1)",
)  # fmt: skip

CALLS = (
    "{a}.sum().backward()", "{a}.mean().backward(retain_graph=True)",
    "{a}.backward({a}.detach())",
    "torch.autograd.backward([{a}, {b}], [torch.ones_like({a}), torch.ones_like({b})])",
    "torch.autograd.backward([{a}.sum(), {a}.mean(), {b}.sum()])",
    "{a}.sum().backward(inputs=[{leaf}])", "{a}.sum().backward(inputs=[{leaf}, {a}])",
    "{a}.sum().backward(create_graph=True)", "torch.autograd.grad({a}.sum(), {leaf})",
    "penalty({a}, {leaf}).backward()",
    "torch.autograd.grad({a}.sum(), [{leaf}, {b}], allow_unused=True)", "batched({a}, {leaf})",
    "assign({a}, {leaf})", "(({a}.sum() + {b}.sum()) / 2).backward(retain_graph=True)",
)  # fmt: skip

BETWEEN = (
    "{leaf}.grad = None", "{leaf}.grad.mul_(0.5)", "{leaf}.grad /= 3", "{leaf}.grad.zero_()",
    "optimizer.step()", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)",
    "torch.nn.utils.clip_grad_norm_(leaves, 0.1)", "torch.nn.utils.clip_grad_value_(leaves, 0.1)",
    "{leaf}.register_hook(halve)", "{leaf}.register_hook(look)", "hook({a}, look)",
    "{leaf}.register_post_accumulate_grad_hook(shrink)", "{a}.retain_grad()",
    "{a}.grad_fn.register_hook(lambda i, o: None)", "{a}.grad_fn.register_prehook(double_up)",
    "{leaf}.grad = {leaf}.grad.clone()", "{leaf}.requires_grad_(False)",
    "{leaf}.requires_grad_()", "{leaf}.data.mul_(0.9)", "del {b}",
)  # fmt: skip

KINDS = (
    (UNARY, "new"), (VIEWS, "new"), (BINARY, "new"), (BINARY, "new"), (REDUCTIONS, "new"),
    (IN_PLACE, "plain"), (CALLS, "call"), (CALLS, "call"), (BETWEEN, "plain"),
)  # fmt: skip
"""Which lines there are; those of a `call` and a `plain` one make no variable."""

LEAVES = ("leaf(3)", "leaf(2, 3)", "leaf(3, 3)", "leaf(1)", "leaf(2, 1, dtype=torch.float64)",
          "leaf(3, 2, dtype=torch.float64)", "leaf(30, 3)")  # fmt: skip

MOST_LINES = 22
MOST_ELEMENTS = 2000


@dataclass(frozen=True)
class Program:
    """The lines after the prelude."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return "\n".join(["Program:", *(f"    {line}" for line in self.lines)])


Choose = Callable[[Sequence[Any]], Any]
"""Takes one of several at random."""

Mark = Callable[[str], None]
"""Is told the text of what is about to run: torch may die of it."""


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Programs that shrink."""
    return grown(lambda several: draw(st.sampled_from(several)), lambda text: None)


def program_of(number: int, mark: Mark = lambda text: None) -> Program:
    """One of endlessly many programs; the same for the same number."""
    return grown(random.Random(f"program {number}").choice, mark)


def grown(choose: Choose, mark: Mark) -> Program:
    """Two or three leaves, an optimizer, and lines that torch takes."""
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(PRELUDE, space)
    lines: list[str] = []
    for name in ("w", "v", "u")[: choose((2, 3))]:
        keep(f"{name} = {choose(LEAVES)}", space, lines)
    leaves = [line.partition(" ")[0] for line in lines]
    keep(f"leaves = [{', '.join(leaves)}]", space, lines)
    keep("optimizer = torch.optim.SGD(leaves, lr=0.1)", space, lines)
    for number in range(choose(range(1, MOST_LINES + 1))):
        line = one_more(choose, space, leaves, number)
        mark("\n".join([*lines, line]))
        keep(line, space, lines)
    if not any("backward(" in line for line in lines):
        keep(attempt(f"{list(tensors(space))[-1]}.sum().backward()"), space, lines)
    return Program(tuple(lines))


def one_more(choose: Choose, space: dict[str, Any], leaves: list[str], number: int) -> str:
    """A line more, which is dropped if torch does not take it."""
    kind, use = choose(KINDS)
    # Of the newest, mostly: deep graphs rather than broad ones.
    names = list(tensors(space))[::-1]
    names = names[: choose((2, 4, 40))] + [name for name in names if name in leaves]
    kind = [line for line in kind if len(set(names)) > 1 or not line.startswith("del ")]
    line: str = choose(kind).format(a=choose(names), b=choose(names), leaf=choose(leaves))
    return {"new": f"t{number} = {line}", "call": attempt(line)}.get(use, line)


def attempt(call: str) -> str:
    """A call that may fail: the message is a part of what the program leaves behind."""
    return f"attempt(lambda: {call})"


def tensors(space: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in space.items() if isinstance(value, Tensor)}


def keep(line: str, space: dict[str, Any], lines: list[str]) -> None:
    """Run a line and keep it, unless torch does not take it or it makes something huge."""
    name = line.partition(" = ")[0]
    try:
        exec(line, space)
    except Exception:  # noqa: BLE001 - whatever torch says to a random line
        return
    made = space.get(name)
    if isinstance(made, Tensor) and (made.numel() > MOST_ELEMENTS or not made.numel()):
        del space[name]
        return
    if not isinstance(made, Tensor) and name[:1] == "t" and name[1:].isdecimal():
        space.pop(name, None)
        return
    lines.append(line)


def run(program: Program) -> tuple[list[Tensor], list[str]]:
    """What a program leaves in its leaves, their `.grad`, and what torch said."""
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(PRELUDE, space)
    space["said"].clear()
    for line in program.lines:
        # A line that was taken while growing can fail now: a generator is never perfect.
        try:
            exec(line, space)
        except Exception as error:  # noqa: BLE001
            space["said"].append(f"{line}: {type(error).__name__}")
    leaves = space["leaves"]
    left = [leaf.detach() for leaf in leaves]
    left += [leaf.grad for leaf in leaves if leaf.grad is not None]
    left += [t.detach() for t in tensors(space).values()]
    return left, list(space["said"])
