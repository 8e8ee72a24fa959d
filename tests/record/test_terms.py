"""Terms of a loss: each one's share is its own, and the run does not notice that it was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import tracer

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

Body = Callable[[nn.Module, Tensor], Tensor]


def record(tmp_path: Path, script: Callable[[], object]) -> list[dict[str, Any]]:
    """What was written of each call."""
    path = tmp_path / "t.trace"
    torch.manual_seed(0)
    with tracer.Recorder(path, terms=True) as recorder:
        script()
    assert not recorder.failure
    with tracer.load(path) as trace:
        return [edit.details for edit in trace.edits if edit.kind == "terms"]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def losses(answers: Tensor) -> list[Tensor]:
    return [answers.square().mean(), 0.5 * answers.abs().sum(), answers.exp().mean() / 3]


def train(loss: Body) -> Callable[[], nn.Module]:
    def script() -> nn.Module:
        net = model()
        loss(net, torch.randn(5, 4)).backward()
        return net

    return script


def added(net: nn.Module, x: Tensor) -> Tensor:
    first, second, third = losses(net(x))
    return first + second - third


def stacked(net: nn.Module, x: Tensor) -> Tensor:
    first, second, third = losses(net(x))
    return torch.stack([first, second, -third]).sum()


def scaled(net: nn.Module, x: Tensor) -> Tensor:
    first, second, third = losses(net(x))
    return (2 * (first + second) - 2 * third) / 2


@pytest.mark.parametrize("loss", [added, stacked, scaled])
def test_dots_are_those_of_each_terms_own_gradient(loss: Body, tmp_path: Path) -> None:
    (found,) = record(tmp_path, train(loss))

    torch.manual_seed(0)
    net = model()
    x = torch.randn(5, 4)
    leaves = list(net.parameters())
    terms = losses(net(x))
    signed = [terms[0], terms[1], -terms[2]]
    parts = [torch.autograd.grad(term, leaves, retain_graph=True) for term in signed]
    for place, leaf in enumerate(leaves):
        whole = sum(part[place] for part in parts).flatten()
        # Leaves stand in the order in which the graph reaches them.
        squares = float(whole @ whole)
        row = min(range(4), key=lambda n: abs(found["squares"][n] - squares))
        expected = [float(part[place].flatten() @ whole) for part in parts]
        assert sorted(found["dots"][row]) == pytest.approx(sorted(expected), rel=1e-4)
        assert sum(found["dots"][row]) == pytest.approx(found["squares"][row], rel=1e-5)
        assert leaf.shape == whole.view(leaf.shape).shape


class Noisy(torch.autograd.Function):
    """Draws a random number in its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 + torch.rand(()))


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    answers = Noisy.apply(net(x))
    return answers.mean() + answers.square().mean() + F.dropout(answers, 0.5).mean()


@pytest.mark.parametrize("loss", [added, stacked, scaled, noisy])
def test_the_run_is_the_same_bit_for_bit(loss: Body, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = train(loss)()
    after = torch.rand(3)
    seen: list[nn.Module] = []
    record(tmp_path, lambda: seen.append(train(loss)()))

    assert torch.equal(torch.rand(3), after)
    for a, b in zip(plain.parameters(), seen[0].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def with_a_hook(net: nn.Module, x: Tensor) -> Tensor:
    answers = net(x)
    answers.register_hook(lambda gradient: gradient * 2)
    return answers.mean() + answers.square().mean()


def with_a_hook_on_a_leaf(net: nn.Module, x: Tensor) -> Tensor:
    next(net.parameters()).register_hook(lambda gradient: gradient * 2)
    return with_two_terms(net, x)


def with_a_hook_of_the_module(net: nn.Module, x: Tensor) -> Tensor:
    net.register_full_backward_hook(lambda module, sent, received: None)
    return with_two_terms(net, x)


def with_retain_grad(net: nn.Module, x: Tensor) -> Tensor:
    answers = net(x)
    answers.retain_grad()
    return answers.mean() + answers.square().mean()


def with_a_checkpoint(net: nn.Module, x: Tensor) -> Tensor:
    answers = checkpoint(net, x, use_reentrant=False)
    return answers.mean() + answers.square().mean()


def with_an_old_checkpoint(net: nn.Module, x: Tensor) -> Tensor:
    answers = checkpoint(net, x.requires_grad_(), use_reentrant=True)
    return answers.mean() + answers.square().mean()


def with_two_terms(net: nn.Module, x: Tensor) -> Tensor:
    answers = net(x)
    return answers.mean() + answers.square().mean()


def with_a_term_inside_another(net: nn.Module, x: Tensor) -> Tensor:
    first = net(x).square().mean()
    return first + first.sqrt()


def with_many_terms(net: nn.Module, x: Tensor) -> Tensor:
    return sum((value for value in net(torch.cat([x, x])).flatten().square()), torch.zeros(()))


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (with_a_hook, "hooks"),
        (with_a_hook_on_a_leaf, "hooks"),
        (with_a_hook_of_the_module, "hooks"),
        (with_retain_grad, "hooks"),
        (with_a_checkpoint, "saved tensors"),
        (with_an_old_checkpoint, "checkpoint"),
        (with_a_term_inside_another, "part of another"),
        (with_many_terms, "more than 16"),
    ],
)
def test_calls_that_would_notice_are_left_out_and_it_is_said_why(
    loss: Body, why: str, tmp_path: Path
) -> None:
    (found,) = record(tmp_path, train(loss))

    assert why in found["skipped"]


@pytest.mark.parametrize(
    "loss", [lambda net, x: net(x).mean(), lambda net, x: F.mse_loss(net(x), torch.zeros(5, 3))]
)
def test_a_loss_of_one_term_is_not_run_again(loss: Body, tmp_path: Path) -> None:
    assert record(tmp_path, train(loss)) == []


def test_without_the_option_nothing_is_run_again(tmp_path: Path) -> None:
    runs: list[None] = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            runs.append(None)
            return gradient

    def script() -> None:
        answers = Counted.apply(model()(torch.randn(5, 4)))
        (answers.mean() + answers.square().mean()).backward()

    with tracer.Recorder(tmp_path / "t.trace"):
        script()
    assert len(runs) == 1
