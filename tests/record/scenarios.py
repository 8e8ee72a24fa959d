"""Small pieces of training, one for each way in which autograd is used; each returns tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

Scenario = Callable[[], list[torch.Tensor]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def leaf(*shape: int, **kwargs: Any) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True, **kwargs)


def grads(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


@scenario
def plain_backward() -> list[torch.Tensor]:
    w = leaf(5, 3)
    (torch.randn(4, 5) @ w).tanh().mean().backward()
    return [w.grad]


@scenario
def a_root_without_a_graph() -> list[torch.Tensor]:
    w = leaf(3)
    for attempt in (w.detach().sum().backward, lambda: torch.autograd.grad(torch.ones(()), w)):
        with suppress(RuntimeError):  # "element 0 of tensors does not require grad"
            attempt()
    (w * 2).sum().backward()
    return [w.grad]


@scenario
def a_leaf_frozen_after_the_forward() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    (w * v).sum().backward()
    loss = (w * v).exp().sum()
    w.requires_grad_(False)
    loss.backward()
    return [w.grad, v.grad]


@scenario
def several_roots_with_given_gradients() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    a, b = w * 2, (w * v).sum()
    torch.autograd.backward([a, b, a], [torch.randn(3), torch.tensor(0.5), torch.ones(3)])
    return [w.grad, v.grad]


@scenario
def a_root_inside_the_graph_of_another() -> list[torch.Tensor]:
    w = leaf(3)
    middle = w * 2
    torch.autograd.backward([middle, middle.exp().sum()], [torch.ones(3), None])
    return [w.grad]


@scenario
def a_leaf_as_root() -> list[torch.Tensor]:
    w = leaf(3)
    torch.autograd.backward([w, w.sum()], [torch.ones(3), None])
    return [w.grad]


@scenario
def autograd_grad() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    middle = w * v
    return list(torch.autograd.grad(middle.square().sum() + w.sum(), [w, middle]))


@scenario
def autograd_grad_of_an_unused_input() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    found = torch.autograd.grad(w.sum(), [w, v], allow_unused=True)
    assert found[1] is None
    return [found[0]]


@scenario
def batched_grad() -> list[torch.Tensor]:
    w = leaf(3)
    return list(torch.autograd.grad(w * w, w, torch.eye(3), is_grads_batched=True))


@scenario
def backward_into_chosen_inputs() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    (w * v * 2).sum().backward(inputs=[w])
    assert v.grad is None
    return [w.grad]


@scenario
def the_same_graph_twice() -> list[torch.Tensor]:
    w = leaf(3)
    loss = w.exp().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return [w.grad]


@scenario
def double_backward() -> list[torch.Tensor]:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = leaf(5, 3)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (slope.norm(dim=1) - 1).square().mean().backward()
    return grads(net)


@scenario
def third_derivative() -> list[torch.Tensor]:
    x = leaf(3)
    first = torch.autograd.grad(x.pow(4).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
    second.sum().backward()
    return [x.grad]


def _blocks() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 4))


@scenario
def checkpoint_without_reentry() -> list[torch.Tensor]:
    net, x = _blocks(), leaf(2, 4)
    checkpoint(net, checkpoint(net, x, use_reentrant=False), use_reentrant=False).sum().backward()
    return [*grads(net), x.grad]


@scenario
def checkpoint_with_reentry() -> list[torch.Tensor]:
    net, x = _blocks(), leaf(2, 4)
    checkpoint(net, checkpoint(net, x, use_reentrant=True), use_reentrant=True).sum().backward()
    return [*grads(net), x.grad]


@scenario
def checkpoint_around_a_scaled_product() -> list[torch.Tensor]:
    w = leaf(3)
    checkpoint(lambda v: (v * w.mean() / w.sum()).exp(), w, use_reentrant=False).sum().backward()
    return [w.grad]


class Cube(torch.autograd.Function):
    """A custom function with two outputs and an input that needs no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, power: int) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(x)
        return x**power, -x

    @staticmethod
    def backward(ctx: Any, cubed: torch.Tensor, negated: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x.square() * cubed - negated, None


@scenario
def custom_function() -> list[torch.Tensor]:
    w = leaf(3)
    cubed, negated = Cube.apply(w, 3)
    (cubed.sum() + negated.sum()).backward()
    return [w.grad]


@scenario
def custom_function_with_one_output_unused() -> list[torch.Tensor]:
    w = leaf(3)
    Cube.apply(w, 3)[0].sum().backward()
    return [w.grad]


class InPlace(torch.autograd.Function):
    """A function that writes into the gradient it received: wrong, and common."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.mul_(3)


@scenario
def function_that_writes_into_what_it_received() -> list[torch.Tensor]:
    w = leaf(3)
    (InPlace.apply(w * 2) * 5).sum().backward()
    return [w.grad]


@scenario
def in_place_operations_and_views() -> list[torch.Tensor]:
    w = leaf(4, 6)
    x = w * 1.5
    x[1:3, ::2].mul_(2)
    x.view(-1)[3:7].add_(w.view(-1)[:4])
    x.t_()
    x.transpose(0, 1).unfold(1, 3, 1).relu().permute(2, 0, 1).mean().backward()
    return [w.grad]


@scenario
def complex_numbers() -> list[torch.Tensor]:
    w, v = leaf(5, dtype=torch.complex64), leaf(3, 8)
    spectrum = torch.fft.rfft(v)
    (
        (w.conj() * w).real.sum() + spectrum.abs().mean() + (spectrum[:, 0] * w[0]).imag.sum()
    ).backward()
    return [w.grad, v.grad]


@scenario
def double_precision() -> list[torch.Tensor]:
    w = leaf(40, 5, dtype=torch.float64)
    (w.float().sum() + w.square().sum() * 1e-30).backward()
    return [w.grad]


@scenario
def reduced_precision() -> list[torch.Tensor]:
    w, v = leaf(30, 30, dtype=torch.bfloat16), leaf(30, 30, dtype=torch.float16)
    x = torch.randn(30, 30)
    ((w.float() @ x).mean() + (v.float() * x).mean() + (w + w).float().sum()).backward()
    return [w.grad, v.grad]


@scenario
def autocast() -> list[torch.Tensor]:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(torch.randn(4, 8)), torch.tensor([0, 1, 0, 1]))
        loss.backward()
    return grads(net)


@scenario
def sparse_gradients() -> list[torch.Tensor]:
    table = nn.Embedding(500, 7, sparse=True)
    where = torch.tensor([[1, 1, 499], [7, 1, 300]])
    for _ in range(2):
        table(where).square().sum().backward()
    return [table.weight.grad.to_dense()]


@scenario
def sparse_and_dense_meet() -> list[torch.Tensor]:
    table = nn.Embedding(50, 7, sparse=True)
    loss = table(torch.tensor([1, 1, 49])).square().sum() + table.weight.sum()
    loss.backward()
    return [table.weight.grad.to_dense()]


@scenario
def tensors_of_no_elements() -> list[torch.Tensor]:
    w, v = leaf(0, 3), leaf(2, 3)
    (torch.cat([w, v]).sum() + v[2:].sum()).backward()
    return [w.grad, v.grad]


@scenario
def undefined_gradients() -> list[torch.Tensor]:
    w = leaf(6)
    first, _, last = w.split(2)
    values, _ = torch.stack([first, last]).max(0)
    values.sum().backward()
    return [w.grad]


class Tagged(torch.Tensor):
    """A subclass that only adds a name."""


@scenario
def tensor_subclass() -> list[torch.Tensor]:
    w = leaf(3, 4)
    x = torch.randn(3, 4).as_subclass(Tagged)
    (x * w).sum().backward()
    return [w.grad.as_subclass(torch.Tensor)]


@scenario
def nested_tensors() -> list[torch.Tensor]:
    w = leaf(4)
    ragged = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged)
    (ragged * w).values().sum().backward()
    return [w.grad]


def four_times(parameter: torch.Tensor) -> None:
    parameter.grad.mul_(4)


@scenario
def hooks_that_change_gradients() -> list[torch.Tensor]:
    w, v = leaf(3), leaf(3)
    middle = w * v
    middle.register_hook(lambda g: g * 2)
    middle.register_hook(lambda g: g + 1)
    w.register_hook(lambda g: g * 0.5)
    v.register_post_accumulate_grad_hook(four_times)
    out = middle.exp().sum()
    out.grad_fn.register_prehook(lambda received: (received[0] * 3,))
    out.grad_fn.register_hook(lambda sent, received: tuple(g * 7 for g in sent))
    out.backward()
    return [w.grad, v.grad]


@scenario
def module_backward_hooks() -> list[torch.Tensor]:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    net[0].register_full_backward_hook(lambda m, sent, received: (sent[0] * 2,))
    net[1].register_full_backward_pre_hook(lambda m, received: (received[0] * 3,))
    x = leaf(2, 3)
    net(x).sum().backward()
    return [*grads(net), x.grad]


@scenario
def optimizer_inside_backward() -> list[torch.Tensor]:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in net.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        net(torch.randn(4, 3)).mean().backward()
    return list(net.parameters())


@scenario
def retained_gradients() -> list[torch.Tensor]:
    w = leaf(3)
    middle = w * 2
    middle.retain_grad()
    middle.exp().sum().backward()
    return [w.grad, middle.grad]


@scenario
def backward_from_several_threads() -> list[torch.Tensor]:
    own = [leaf(50) for _ in range(4)]

    def work(w: torch.Tensor) -> None:
        for _ in range(5):
            (w * 2).tanh().sum().backward()

    threads = [threading.Thread(target=work, args=(w,)) for w in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [w.grad for w in own]


@scenario
def frozen_and_no_grad_parts() -> list[torch.Tensor]:
    frozen, net = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1)
    x = frozen(torch.randn(2, 3))
    with torch.no_grad():
        offset = net(x).mean()
    (net(x) - offset).square().mean().backward()
    return grads(net)


@scenario
def shared_weights() -> list[torch.Tensor]:
    table = nn.Embedding(10, 4)
    head = nn.Linear(4, 10, bias=False)
    head.weight = table.weight
    tokens = torch.tensor([[1, 2, 3], [4, 5, 1]])
    F.cross_entropy(head(table(tokens)).flatten(0, 1), tokens.flatten()).backward()
    return [table.weight.grad]


@scenario
def a_recurrent_net() -> list[torch.Tensor]:
    net = nn.LSTM(3, 4, num_layers=2, batch_first=True)
    out, _ = net(torch.randn(2, 5, 3))
    out[:, -1].square().mean().backward()
    return grads(net)


@scenario
def a_transformer_in_training_and_evaluation() -> list[torch.Tensor]:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    x = torch.randn(2, 3, 8)
    net(x).mean().backward()
    net.eval()
    with torch.no_grad():
        fast = net(x)
    return [*grads(net), fast]


@scenario
def accumulation_clipping_and_adam() -> list[torch.Tensor]:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.01))
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            x, y = torch.randn(8, 4), torch.randint(2, (8,))
            (F.cross_entropy(net(x), y) / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    return [*net.parameters(), *net.buffers()]


@scenario
def lbfgs_closures() -> list[torch.Tensor]:
    w = leaf(3)
    optimizer = torch.optim.LBFGS([w], max_iter=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w - 1).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return [w]


@scenario
def functional_transforms() -> list[torch.Tensor]:
    w = torch.randn(3)
    slope = torch.func.grad(lambda v: v.exp().sum())(w)
    each = torch.func.vmap(torch.func.grad(lambda v: v.square().sum()))(torch.randn(4, 3))
    jacobian = torch.autograd.functional.jacobian(lambda v: v.square(), w)
    return [slope, each, jacobian]


@scenario
def values_out_of_the_ordinary() -> list[torch.Tensor]:
    w, v = leaf(100), leaf(100)
    (w * 1e25).sum().backward()
    (w * 1e-30).sum().backward()
    (v.detach().mul(0).reciprocal() * v).sum().backward()
    return [w.grad, v.grad]


@scenario
def the_anomaly_mode_of_the_user() -> list[torch.Tensor]:
    w = leaf(3)
    with torch.autograd.set_detect_anomaly(True):
        assert torch.is_anomaly_enabled()
        (w * 2).sum().backward()
    assert not torch.is_anomaly_enabled()
    (w * 3).sum().backward()
    return [w.grad]


@scenario
def a_scripted_module() -> list[torch.Tensor]:
    net = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3))
    for _ in range(3):
        net(torch.randn(2, 3)).sum().backward()
    return grads(net)
