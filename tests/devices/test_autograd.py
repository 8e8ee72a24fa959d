"""Autograd on virtual GPUs: hooks, functions of the user, graphs of graphs, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import (
    get_gradient_edge,
    register_multi_grad_hook,
    save_on_cpu,
    saved_tensors_hooks,
)
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("two_gpus")

ONE = torch.device("cuda", 1)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=ONE, requires_grad=True)


def test_tensor_hooks_see_gradients_on_the_gpu() -> None:
    x, seen = leaf(1, 1, 1), []
    y = 2 * x
    y.retain_grad()
    y.register_hook(lambda gradient: seen.append(gradient.device))
    (y**3).sum().backward()

    assert seen == [ONE]
    assert y.grad is not None
    assert y.grad.device == ONE


def test_module_hooks_see_gradients_on_the_gpu() -> None:
    seen: list[Any] = []
    net = nn.Linear(2, 2).cuda(1)
    net.register_full_backward_hook(
        lambda module, sent, received: seen.append((sent[0].device, received[0].device))
    )
    net(torch.ones(1, 2, device=ONE, requires_grad=True)).sum().backward()

    assert seen == [(ONE, ONE)]


def test_a_gradient_can_be_derived_again() -> None:
    x = leaf(3, 3)
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)

    assert second.tolist() == [18, 18]
    assert torch.autograd.gradcheck(lambda t: t**2, leaf(1, 2).double().detach().requires_grad_())


def test_functions_of_the_user_run_on_the_gpu() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert x.device == g.device == ONE
            return 2 * x * g

    x = leaf(3, 3)
    Square.apply(x).sum().backward()

    assert x.grad is not None
    assert x.grad.tolist() == [6, 6]


def test_a_leaf_is_the_variable_of_its_node() -> None:
    x = leaf(1, 1)
    node = (x * 1).grad_fn.next_functions[0][0]
    (x * 2).sum().backward(inputs=[x])

    assert node.variable is x
    assert get_gradient_edge(x).node is node
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_draws_the_same_dropout_again(use_reentrant: bool) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).cuda(1)
    x = torch.ones(2, 8, device=ONE, requires_grad=True)
    out = checkpoint(net, x, use_reentrant=use_reentrant)
    out.sum().backward()

    assert x.grad is not None
    assert x.grad.device == ONE
    assert net[0].bias.grad is not None
    assert torch.equal(net[0].bias.grad, 2.0 * (out != 0).sum(0))


def test_saved_tensors_can_wait_on_the_cpu() -> None:
    x = leaf(1, 2)
    with save_on_cpu(pin_memory=True):
        y = (x * x).sum()
    y.backward()
    packed = []
    with saved_tensors_hooks(lambda t: packed.append(t.device) or t, lambda t: t):
        (x * x.detach()).sum().backward()

    assert x.grad is not None
    assert x.grad.tolist() == [3, 6]
    assert set(packed) == {ONE}


def test_hooks_on_several_gradients() -> None:
    net, seen = nn.Linear(2, 2).cuda(1), []
    with register_multi_grad_hook(
        list(net.parameters()), lambda gradients: seen.append([g.device for g in gradients])
    ):
        net(torch.ones(1, 2, device=ONE)).sum().backward()

    assert seen == [[ONE, ONE]]


def test_anomalies_are_found() -> None:
    x = leaf(0, 0)
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.warns(UserWarning, match="Error detected in SqrtBackward0"),
        pytest.raises(RuntimeError, match="returned nan"),
    ):
        (x.sqrt() * 0).sum().backward()


def test_function_transforms() -> None:
    net = nn.Linear(2, 2).cuda(1)
    ones = torch.ones(2, 2, device=ONE)

    assert functional_call(net, dict(net.named_parameters()), ones).device == ONE
    assert grad(lambda t: (t**2).sum())(ones).device == ONE
    assert vmap(lambda t: t * 2)(ones).device == ONE


def test_inference_mode_keeps_devices() -> None:
    net = nn.Linear(2, 2).cuda(1)
    with torch.inference_mode():
        out = net(torch.ones(1, 2).cuda(1))
        assert out.to("cuda:0").get_device() == 0
        assert out.cpu().device.type == "cpu"
        assert out.double().device == out.to(ONE).device == ONE
    with torch.no_grad():
        assert net(torch.ones(1, 2).cuda(1)).device == ONE
