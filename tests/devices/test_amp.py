"""Mixed precision: what autocast casts, and what GradScaler skips."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.devices.nets import ConvNet
from tracer.devices.autocast import POLICIES


@pytest.fixture
def matrix(two_gpus: None) -> Tensor:
    return torch.ones(2, 2, device="cuda")


def test_each_operator_that_torch_casts_has_a_policy() -> None:
    registered = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    }

    assert registered <= POLICIES.keys()


def test_matrix_products_are_done_in_half_precision(matrix: Tensor) -> None:
    with torch.autocast("cuda"):
        assert (matrix @ matrix).dtype == torch.float16
        assert F.linear(matrix, matrix).dtype == torch.float16
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16


def test_delicate_operators_are_done_in_float32(matrix: Tensor) -> None:
    half = matrix.half()
    with torch.autocast("cuda"):
        assert torch.exp(half).dtype == torch.float32
        assert F.layer_norm(half, (2,)).dtype == torch.float32
        assert torch.softmax(half, 0).dtype == half.sum().dtype == torch.float32
        assert F.mse_loss(half, half).dtype == torch.float32
        assert half.sum(dtype=torch.float16).dtype == torch.float16


def test_mixed_inputs_take_the_widest_type(matrix: Tensor) -> None:
    with torch.autocast("cuda"):
        assert torch.addcmul(matrix.half(), matrix, matrix.half()).dtype == torch.float32
        assert torch.addcmul(*[matrix.half()] * 3).dtype == torch.float16


def test_doubles_and_tensors_of_the_cpu_are_left_alone(matrix: Tensor) -> None:
    with torch.autocast("cuda"):
        assert (matrix.double() @ matrix.double()).dtype == torch.float64
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with torch.autocast("cuda", enabled=False):
        assert (matrix @ matrix).dtype == torch.float32


def test_a_loss_that_overflows_is_refused(matrix: Tensor) -> None:
    with torch.autocast("cuda"), pytest.raises(RuntimeError, match="unsafe to autocast"):
        F.binary_cross_entropy(matrix, matrix)


def test_a_parameter_is_cast_once_in_one_autocast(matrix: Tensor) -> None:
    weight = nn.Parameter(matrix)
    with torch.autocast("cuda"):
        one, other = matrix @ weight, matrix @ weight
    assert one.grad_fn is not None
    assert other.grad_fn is not None
    assert one.grad_fn.next_functions[1][0] is other.grad_fn.next_functions[1][0]


def test_functions_of_the_user_get_the_type_they_ask_for(matrix: Tensor) -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
        def forward(ctx, x):
            assert x.dtype == torch.float32
            return x * 2

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx, g):
            return g * 2

    x = matrix.half().requires_grad_()
    with torch.autocast("cuda"):
        Twice.apply(x).sum().backward()

    assert x.grad is not None
    assert x.grad.dtype == torch.float16
    assert x.grad.device == x.device


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")
def test_mixed_precision_trains_and_skips_the_step_that_overflows(four_gpus: None) -> None:
    net = ConvNet().cuda()
    parallel = nn.DataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.cuda.amp.GradScaler(init_scale=2.0**10)
    images, labels = torch.randn(13, 3, 8, 8).cuda(), torch.randint(0, 10, (13,)).cuda()
    seen = set()
    net.conv2.register_forward_hook(
        lambda module, inputs, output: seen.add(
            (inputs[0].dtype, output.dtype, output.get_device())
        )
    )
    losses = []
    for step in range(12):
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.amp.autocast():
            out = parallel(images)
            loss = F.cross_entropy(out, labels)
        scaler.scale(loss).backward()
        if step == 7:
            assert net.head.weight.grad is not None
            net.head.weight.grad[0, 0] = float("inf")
        before, scale = net.head.weight.detach().clone(), scaler.get_scale()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parallel.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())

        assert (out.dtype, loss.dtype) == (torch.float16, torch.float32)
        assert torch.equal(before, net.head.weight.detach()) == (step == 7)
        assert scaler.get_scale() == (scale / 2 if step == 7 else scale)

    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in net.parameters())
    assert seen == {(torch.float16, torch.float16, gpu) for gpu in range(4)}


def test_a_loss_too_large_for_float16_makes_the_scaler_back_off(one_gpu: None) -> None:
    net = nn.Linear(4, 1).cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)
    before = net.weight.detach().clone()
    with torch.autocast("cuda"):
        loss = net(torch.full((8, 4), 100.0, device="cuda")).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

    assert torch.equal(before, net.weight.detach())
    assert scaler.get_scale() == 2.0**23


def test_bfloat16_needs_no_scaler(one_gpu: None) -> None:
    net = ConvNet().cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = net(torch.randn(5, 3, 8, 8).cuda())
    out.float().sum().backward()

    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_threads_of_data_parallel_forget_bfloat16_as_they_do_on_cuda(two_gpus: None) -> None:
    # torch/nn/parallel/parallel_apply.py hands `enabled` to its threads, and no dtype.
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = nn.DataParallel(nn.Linear(2, 2).cuda())(torch.ones(2, 2).cuda())

    assert out.dtype == torch.float16
