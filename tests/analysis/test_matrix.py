"""One training loop for each thing that people do to gradients, against numbers from outside.

Each script lets the test say what a single item's loss is multiplied with. The oracle is what came
out: give one item twice its weight, and what the optimizer consumed must change by (the weight that
its row says) x (the item's own gradient); and plain SGD must have moved the parameter by
lr x the sum of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.recorded import consumed_by, explain, rows_of, weights
from tests.analysis.scripts import EIGHTH, Line, data, verdicts
from tracer.analysis.explain import Explanation
from tracer.devices import virtual_gpus

ITEMS = 8


class Reverse(torch.autograd.Function):
    """The identity, with a gradient that goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


@dataclass
class Loop:
    """A script that can be run with one item counted twice; `own` has each item's loss by itself.

    A script hands `item` the losses of one call, one for each of its items, and trains with what it
    gets back. Scripts make their model with `made` and their data with `scripts.data`.
    """

    name: str
    body: Callable[[Loop], object]
    rows: Sequence[tuple[int, Fraction | float]]
    """Items and the weight of one, for each call that reaches the step: by hand."""
    model: Callable[[], nn.Module] = Line
    moves: float | None = None
    """By how much a step of plain SGD moves the parameter, in units of the weighted gradient."""
    twice: tuple[int, int] | None = None
    call: int = 0
    made: list[nn.Module] = field(default_factory=list)
    own: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def item(self, losses: Tensor) -> Tensor:
        """The losses of the items of one call."""
        call, self.call = self.call, self.call + 1
        if self.twice is None or self.twice[0] != call:
            return losses
        (weight,) = self.made[0].parameters()
        (own,) = torch.autograd.grad(losses.flatten()[self.twice[1]], weight, retain_graph=True)
        self.own[self.twice] = own
        more = torch.ones(losses.numel(), dtype=losses.dtype)
        more[self.twice[1]] += 1
        return losses * more.view(losses.shape)

    def start(self) -> nn.Module:
        self.made[:] = [self.model()]
        return self.made[0]

    def leaf(self) -> Tensor:
        (weight,) = self.made[0].parameters()
        return weight

    def run(self, twice: tuple[int, int] | None = None) -> None:
        torch.manual_seed(0)
        self.twice, self.call = twice, 0
        self.body(self)


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def squares(model: nn.Module, count: int = ITEMS) -> Tensor:
    x, y = data(count)
    return (model(x) - y).square()


def three_calls(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    for _ in range(3):
        loop.item(squares(model)).mean().backward()
    optimizer.step()


def three_calls_divided(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    for _ in range(3):
        (loop.item(squares(model)).mean() / 3).backward()
    optimizer.step()


def adam(loop: Loop) -> None:
    model = loop.start()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        loop.item(squares(model)).mean().backward()
    optimizer.step()


def masked(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    keep = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
    loop.item(squares(model)[keep]).mean().backward()
    optimizer.step()


def filled(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    drop = torch.tensor([0, 1, 0, 0, 1, 0, 0, 1], dtype=torch.bool)[:, None]
    (loop.item(squares(model)).masked_fill(drop, 0).sum() / 5).backward()
    optimizer.step()


def edited(by: Callable[[Tensor], object]) -> Callable[[Loop], None]:
    def body(loop: Loop) -> None:
        model = loop.start()
        optimizer = sgd(model)
        for _ in range(2):
            loop.item(squares(model)).mean().backward()
        for leaf in model.parameters():
            by(leaf)
        optimizer.step()

    return body


def divide(leaf: Tensor) -> None:
    leaf.grad /= 2


def multiply(leaf: Tensor) -> None:
    leaf.grad.mul_(0.25)


def assign(leaf: Tensor) -> None:
    leaf.grad = leaf.grad * 3


def emptied(empty: Callable[[nn.Module, torch.optim.Optimizer], object]) -> Callable[[Loop], None]:
    """What the first call leaves is thrown away; the second is consumed."""

    def body(loop: Loop) -> None:
        model = loop.start()
        optimizer = sgd(model)
        squares(model, 5).mean().backward()
        empty(model, optimizer)
        loop.item(squares(model)).mean().backward()
        optimizer.step()

    return body


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for leaf in model.parameters():
        leaf.grad.zero_()


def to_none(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for leaf in model.parameters():
        leaf.grad = None


def hook_inside(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    x, y = data(ITEMS)
    answers = model(x)
    if loop.twice is None or loop.call != loop.twice[0]:
        answers.register_hook(lambda gradient: gradient * 0.5)
        loop.item((answers - y).square()).mean().backward()
    else:
        losses = loop.item((answers - y).square())  # its own gradient is taken without the hook
        answers.register_hook(lambda gradient: gradient * 0.5)
        losses.mean().backward()
    optimizer.step()


def several_hooks(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    losses = loop.item(squares(model))
    for leaf in model.parameters():
        for _ in range(3):
            leaf.register_hook(lambda gradient: gradient / 2)
    losses.mean().backward()
    optimizer.step()


def after_accumulation(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    model.w.register_post_accumulate_grad_hook(multiply)
    for _ in range(2):
        loop.item(squares(model)).mean().backward()
    optimizer.step()


def steps_inside(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)

    def step(leaf: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    model.w.register_post_accumulate_grad_hook(step)
    loop.item(squares(model)).mean().backward()


def scales_and_steps_inside(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)

    def step(leaf: Tensor) -> None:
        leaf.grad.mul_(0.25)
        optimizer.step()
        leaf.grad = None

    model.w.register_post_accumulate_grad_hook(step)
    loop.item(squares(model)).mean().backward()


def two_groups(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    optimizer.param_groups.append({**optimizer.param_groups[0], "lr": 0.3})
    loop.item(squares(model)).mean().backward()
    optimizer.step()


def two_optimizers(loop: Loop) -> None:
    model = loop.start()
    first, second = sgd(model), sgd(model, lr=0.5)
    loop.item(squares(model)).mean().backward()
    first.step()
    second.step()


def scheduled(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        loop.item(squares(model)).mean().backward()
        optimizer.step()
        schedule.step()


def scaled(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for _ in range(2):
        scaler.scale(loop.item(squares(model)).mean() / 2).backward()
    scaler.step(optimizer)
    scaler.update()


class Tied(nn.Module):
    """Embeds and answers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.embedding(x, self.w)) @ self.w.t()


def tied(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    x = torch.arange(ITEMS) % 5
    loop.item(F.cross_entropy(model(x), x.flip(0), reduction="none")).mean().backward()
    optimizer.step()


def reversed_gradient(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    x, y = data(ITEMS)
    answers = model(x)
    if loop.twice is None:
        loss = loop.item((Reverse.apply(answers, 0.25) - y).square()).mean()
    else:
        own = loop.item((answers - y).square())  # its own gradient: of the same loss, not reversed
        more = (own / (answers - y).square()).detach()
        loss = ((Reverse.apply(answers, 0.25) - y).square() * more).mean()
    loss.backward()
    optimizer.step()


def adversarial(loop: Loop) -> None:
    """The generator's backward call fills the discriminator too, and nobody empties it."""
    critic = loop.start()
    maker = nn.Linear(2, 3).double()
    optimizer, other = sgd(critic), sgd(maker)
    fake = maker(torch.randn(ITEMS, 2, dtype=torch.float64))
    loop.item(F.softplus(-critic(fake))).mean().backward()
    real = torch.randn(4, 3, dtype=torch.float64)
    loop.item(F.softplus(-critic(real))).mean().backward()
    loop.item(F.softplus(critic(fake.detach()))).mean().backward()
    optimizer.step()
    other.step()


def batch_of_one(loop: Loop) -> None:
    model = loop.start()
    optimizer = sgd(model)
    (0.5 * loop.item(squares(model, 1))).mean().backward()
    optimizer.step()


LOOPS = [
    Loop("three calls", three_calls, [(8, EIGHTH)] * 3, moves=0.1),
    Loop("three calls over three", three_calls_divided, [(8, EIGHTH / 3)] * 3, moves=0.1),
    Loop("Adam", adam, [(8, EIGHTH)] * 3),
    Loop("picked by a mask", masked, [(5, Fraction(1, 5))], moves=0.1),
    Loop("filled by a mask", filled, [(5, Fraction(1, 5))], moves=0.1),
    Loop("grad /= 2", edited(divide), [(8, EIGHTH / 2)] * 2, moves=0.1),
    Loop("grad.mul_", edited(multiply), [(8, EIGHTH / 4)] * 2, moves=0.1),
    Loop("grad = 3 grad", edited(assign), [(8, EIGHTH * 3)] * 2, moves=0.1),
    Loop("optimizer.zero_grad", emptied(lambda m, o: o.zero_grad()), [(8, EIGHTH)], moves=0.1),
    Loop("zero_grad to zeros", emptied(lambda m, o: o.zero_grad(False)), [(8, EIGHTH)], moves=0.1),
    Loop("module.zero_grad", emptied(lambda m, o: m.zero_grad()), [(8, EIGHTH)], moves=0.1),
    Loop("grad.zero_()", emptied(by_hand), [(8, EIGHTH)], moves=0.1),
    Loop("grad = None", emptied(to_none), [(8, EIGHTH)], moves=0.1),
    Loop("hook inside", hook_inside, [(8, EIGHTH / 2)], moves=0.1),
    Loop("three hooks", several_hooks, [(8, EIGHTH / 8)], moves=0.1),
    Loop("hook after accumulation", after_accumulation, [(8, EIGHTH / 16), (8, EIGHTH / 4)],
         moves=0.1),
    Loop("optimizer in backward", steps_inside, [(8, EIGHTH)], moves=0.1),
    Loop("scaled in backward", scales_and_steps_inside, [(8, EIGHTH / 4)], moves=0.1),
    Loop("two groups", two_groups, [(8, EIGHTH)], moves=0.4),
    Loop("two optimizers", two_optimizers, [(8, EIGHTH)]),
    Loop("scheduled", scheduled, [(8, EIGHTH)]),
    Loop("loss scale", scaled, [(8, EIGHTH / 2)] * 2, moves=0.1),
    Loop("tied weights", tied, [(8, EIGHTH)], model=Tied, moves=0.1),
    Loop("reversed", reversed_gradient, [(8, -EIGHTH / 4)], moves=0.1),
    Loop("adversarial", adversarial, [(8, EIGHTH), (4, Fraction(1, 4)), (8, EIGHTH)], moves=0.1),
    Loop("batch of one", batch_of_one, [(1, Fraction(1, 2))], moves=0.1),
]  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_rows_are_what_comes_out(loop: Loop, tmp_path: Path) -> None:
    found = explain(loop.run, tmp_path)
    assert weights(found) == list(loop.rows)

    plain = consumed_by(loop.run, loop.leaf)
    weighted = torch.zeros_like(plain)
    for call, row in enumerate(rows_of(found)):
        for place in range(row.items):
            item = (call, place) if loop.name != "filled by a mask" else (0, (0, 2, 3, 5, 6)[place])
            more = consumed_by(lambda item=item: loop.run(item), loop.leaf)
            expected = float(row.weight) * loop.own[item]
            torch.testing.assert_close(more - plain, expected, rtol=1e-7, atol=1e-12)
            weighted += expected
    if loop.moves is None:
        return
    assert found.optimizer is not None
    assert found.optimizer.lr == pytest.approx(loop.moves)
    loop.run()
    after = loop.leaf().detach().clone()
    torch.manual_seed(0)
    before = loop.model().w.detach()
    torch.testing.assert_close(before - after, loop.moves * weighted, rtol=1e-6, atol=1e-12)


def kinds(found: Explanation) -> list[str]:
    return [note.kind for note in found.notes]


def noted(found: Explanation, kind: str) -> str:
    return next(note.words for note in found.notes if note.kind == kind)


def made(body: Callable[[Loop], object]) -> Callable[[], None]:
    return Loop("", body, []).run


def test_a_parameter_in_two_groups_is_moved_twice(tmp_path: Path) -> None:
    found = explain(made(two_groups), tmp_path)

    assert noted(found, "several-groups").endswith("lr 0.1 + 0.3 = 0.4.")


def test_a_parameter_of_two_optimizers_is_used_twice(tmp_path: Path) -> None:
    first = explain(made(two_optimizers), tmp_path)
    second = explain(made(two_optimizers), tmp_path, step=2)

    assert first.ledger.history.again == (second.ledger.step.order,)
    assert "step 2 (SGD, lr 0.5)" in noted(first, "used-again")
    assert "step 1 (SGD, lr 0.1)" in noted(second, "used-before")
    assert weights(second) == [(8, EIGHTH)]


def test_a_schedule_between_steps_is_told(tmp_path: Path) -> None:
    found = explain(made(scheduled), tmp_path, step=2)

    assert found.optimizer.lr == 0.05
    assert noted(found, "lr-changes").endswith("0.1 from step 1, 0.05 from step 2.")


def test_an_optimizer_inside_the_backward_call_is_told(tmp_path: Path) -> None:
    found = explain(made(steps_inside), tmp_path)

    assert found.ledger.history.inside is not None
    assert kinds(found) == ["inside"]


def test_a_loop_without_anything_special_has_nothing_beside_it(tmp_path: Path) -> None:
    assert kinds(explain(made(three_calls), tmp_path)) == []


def test_sgd_with_every_option_says_what_each_does(tmp_path: Path) -> None:
    def body(loop: Loop) -> None:
        model = loop.start()
        optimizer = sgd(model, momentum=0.9, nesterov=True, weight_decay=0.01, maximize=True)
        squares(model).mean().backward()
        optimizer.step()

    found = explain(made(body), tmp_path)

    assert kinds(found) == ["maximize", "momentum", "weight-decay"]
    assert "1.9 times that at once" in noted(found, "momentum")
    assert "up to 10 times" in noted(found, "momentum")


# Loss scale, clip and the steps that were skipped.


def amp(right: bool) -> Callable[[Loop], None]:
    def body(loop: Loop) -> None:
        model = loop.start()
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        scaler.scale(squares(model).mean()).backward()
        if right:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()

    return body


def own_norm() -> float:
    """Of the gradient that neither scale nor clip has touched."""
    torch.manual_seed(0)
    model = Line()
    squares(model).mean().backward()
    return float(model.w.grad.norm())


def test_amp_clips_what_was_unscaled(tmp_path: Path) -> None:
    found = explain(made(amp(right=True)), tmp_path)
    coefficient = 0.5 / (own_norm() + 1e-6)

    assert verdicts(found, "afterwards")[0] == "x 1/65536"
    assert [f.kind for f in found.ledger.rows[0].after] == ["unscale", "clip_grad_norm"]
    ((items, weight),) = weights(found)
    assert items == 8
    assert float(weight) == pytest.approx(coefficient / 8, rel=1e-9)


def test_amp_in_the_wrong_order_clips_the_scaled_gradient(tmp_path: Path) -> None:
    found = explain(made(amp(right=False)), tmp_path)
    coefficient = 0.5 / (65536 * own_norm() + 1e-6)

    assert [f.kind for f in found.ledger.rows[0].after] == ["clip_grad_norm", "unscale"]
    ((_, weight),) = weights(found)
    assert float(weight) == pytest.approx(coefficient / 8, rel=1e-9)


def test_a_skipped_step_is_told_with_what_it_did_to_the_scale(tmp_path: Path) -> None:
    def body(loop: Loop) -> None:
        model = loop.start()
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(squares(model).mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()

    first = explain(made(body), tmp_path)
    second = explain(made(body), tmp_path, step=2)

    assert kinds(first) == []
    assert noted(second, "step-skipped") == (
        "GradScaler skipped a step of SGD (after backward call 2): gradients were not finite; "
        "the loss scale went from 65536 to 32768."
    )
    assert weights(second) == [(8, EIGHTH)]
    assert [f.value for f in second.ledger.rows[0].after] == [Fraction(1, 32768)]


# Losses without items, and closures.


def test_a_call_whose_targets_are_all_ignored_adds_nothing(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = sgd(model)
        for target in (-100, 1):
            x, _ = data(6)
            F.cross_entropy(model(x), torch.full((6,), target)).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert [(row.items, row.masked) for row in rows_of(found)] == [(0, 6), (6, 0)]
    assert found.verdict.words == "the mean over all 6 items"


def test_nothing_but_ignored_targets(tmp_path: Path) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = sgd(model)
        F.cross_entropy(model(data(6)[0]), torch.full((6,), -100)).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert verdicts(found, "items") == ["none"]
    assert found.verdict.words == "nothing: all 6 items are left out"


@pytest.mark.parametrize(
    ("reduction", "note"), [("mean", "a mean of nothing: 0/0"), ("sum", "nothing is added: 0")]
)
def test_a_selection_of_nothing_stands_beside_the_other_loss(
    reduction: str, note: str, tmp_path: Path
) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = sgd(model)
        out, none = model(data(6)[0]), torch.zeros(6, dtype=torch.bool)
        nothing = torch.zeros(0, 4, dtype=torch.float64)
        (out.square().mean() + F.mse_loss(out[none], nothing, reduction=reduction) / 2).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert found.verdict.words == (
        "2 losses added: nothing: there are no items; "
        "the mean over all 24 items (6 samples of 4 elements)"
    )
    assert next(axis.note for axis in found.verdict.axes if axis.verdict == "none") == note


@pytest.mark.parametrize(("reduce", "weight"), [(torch.sum, Fraction(1)), (torch.mean, None)])
def test_a_sum_or_mean_over_a_selection_of_nothing(
    reduce: Callable[[Tensor], Tensor], weight: Fraction | None, tmp_path: Path
) -> None:
    def script() -> None:
        model = nn.Linear(3, 4).double()
        optimizer = sgd(model)
        out, none = model(data(6)[0]), torch.zeros(6, dtype=torch.bool)
        nothing = reduce(out[none].square())
        (out.square().mean() + nothing).backward()
        optimizer.step()

    found = explain(script, tmp_path, "weight")

    assert sorted(weights(found)) == [(0, weight), (24, Fraction(1, 24))]
    assert "nothing: there are no items" in found.verdict.words


def test_a_mask_that_leaves_nothing_is_where_nan_begins(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = sgd(model)
        mask = torch.zeros(8, 1, dtype=torch.float64)
        ((squares(model) * mask).sum() / mask.sum()).backward()
        optimizer.step()

    assert "not finite any more after div" in explain(script, tmp_path).verdict.words


def test_a_closure_is_evaluated_many_times(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
        x, y = data(8)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)

    first = explain(script, tmp_path)
    second = explain(script, tmp_path, step=2)

    for found in (first, second):
        assert weights(found) == [(8, EIGHTH)]
        assert noted(found, "closure").startswith("LBFGS called its closure 4 times")
    torch.manual_seed(0)
    model = Line()
    x, y = data(8)
    F.mse_loss(model(x), y).backward()
    assert first.ledger.norm == pytest.approx(float(model.w.grad.norm()), rel=1e-6)


def test_a_function_of_one_number_is_told_and_not_counted(tmp_path: Path) -> None:
    def script() -> None:
        model = Line()
        optimizer = sgd(model)
        x, y = data(1)
        F.mse_loss(Reverse.apply(model(x), 0.25), y).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert weights(found) == [(1, 1)]
    assert kinds(found) == ["opaque"]


# A printed 3.


def three(way: str) -> None:
    """Leaves 3 in `w.grad`: of four items, each with a gradient of 1."""
    w = torch.ones(1, requires_grad=True)
    x = torch.ones(3 if way == "sum" else 4)
    if way == "sum":
        (w * x).sum().backward()
    elif way == "calls":
        for _ in range(3):
            (w * x).mean().backward()
    elif way == "factor":
        (3 * (w * x).mean()).backward()
    elif way == "hook":
        w.register_hook(lambda gradient: gradient * 3)
        (w * x).mean().backward()
    assert w.grad.item() == 3


def replicas_with_factors() -> None:
    w = torch.ones(1, device="cuda", requires_grad=True)

    class Captured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = [w]

        def forward(self, x: Tensor) -> Tensor:
            return self.held[0].to(x.device) * x * (1, 5)[x.device.index]

    nn.DataParallel(Captured())(torch.ones(4, 1, device="cuda")).mean().backward()
    assert w.grad.item() == 3


@pytest.mark.filterwarnings("ignore:Was asked to gather along dimension 0")
def test_a_printed_three_is_told_apart(tmp_path: Path) -> None:
    found = {way: explain(lambda way=way: three(way), tmp_path)
             for way in ("sum", "calls", "factor", "hook")}  # fmt: skip
    with virtual_gpus(2):
        found["replicas"] = explain(replicas_with_factors, tmp_path)

    assert {one.ledger.norm for one in found.values()} == {3.0}
    assert len({one.verdict.signature for one in found.values()}) == 5
    assert found["sum"].verdict.words == "the sum over all 3 items"
    assert found["calls"].verdict.words == "3 x the mean gradient, over all 12 items"
    assert verdicts(found["calls"], "backward calls") == ["SUM"]
    assert found["factor"].verdict.words == "3 x the mean gradient, over all 4 items"
    assert found["factor"].verdict.axes[0].note == "x 3 in the loss"
    assert verdicts(found["hook"], "afterwards") == ["x 3"]
    assert found["replicas"].verdict.words == "the mean over all 4 items"
    assert verdicts(found["replicas"], "replicas") == ["sum"]


def test_a_factor_in_half_precision_is_told_as_about(tmp_path: Path) -> None:
    def script() -> None:
        w = nn.Parameter(torch.randn(40, 3, dtype=torch.bfloat16))
        optimizer = torch.optim.SGD([w], lr=0.1)
        w.register_hook(lambda gradient: gradient * 0.37)
        F.mse_loss(
            torch.randn(8, 40, dtype=torch.bfloat16) @ w, torch.zeros(8, 3).bfloat16()
        ).backward()
        optimizer.step()

    found = explain(script, tmp_path)

    assert verdicts(found, "afterwards") == ["x about 0.37"]
    assert kinds(found) == ["rough"]
    assert found.ledger.rows[0].after[0].value == pytest.approx(0.37, rel=5e-3)
