"""Tensors on virtual GPUs: made, moved, indexed, changed, printed, refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("two_gpus")

ONE = torch.device("cuda", 1)


def test_factories_make_tensors_where_they_are_told() -> None:
    for make in (torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn):
        assert make(2, 3, device="cuda:1").device == ONE
    assert torch.full((2,), 3.0, device=ONE).tolist() == [3, 3]
    assert torch.arange(4, device="cuda").tolist() == [0, 1, 2, 3]
    assert torch.linspace(0, 1, 3, device=ONE).tolist() == [0, 0.5, 1]
    assert torch.eye(2, device=ONE).trace().item() == 2
    assert sorted(torch.randperm(5, device=ONE).tolist()) == list(range(5))
    assert torch.randint(0, 3, (4,), device="cuda").is_cuda
    assert torch.tril_indices(3, 3, device=ONE).device == ONE
    assert torch.empty_strided((2, 2), (1, 2), device=ONE).stride() == (1, 2)


def test_data_becomes_a_tensor_on_a_gpu() -> None:
    x = torch.ones(2, device=ONE)

    assert torch.tensor([1, 2], device="cuda:1").device == ONE
    assert torch.tensor(x[0].item(), device=ONE, requires_grad=True).requires_grad
    assert torch.tensor([x[0], x[1]], device=ONE).tolist() == [1, 1]
    assert torch.as_tensor(np.ones(2), device=ONE).dtype == torch.float64
    assert torch.asarray([1, 2], device=ONE).device == ONE
    assert torch.as_tensor(x) is x
    with pytest.warns(UserWarning, match="To copy construct from a tensor"):
        assert torch.tensor(x).device == ONE
    assert torch.as_tensor(x, device="cpu").device.type == "cpu"


def test_new_tensors_are_made_beside_old_ones() -> None:
    x = torch.ones(2, 2, device=ONE)
    likes = (torch.zeros_like, torch.ones_like, torch.empty_like, torch.rand_like, torch.randn_like)

    assert all(like(x).device == ONE for like in likes)
    assert torch.zeros_like(x, device="cpu").device.type == "cpu"
    assert torch.zeros_like(torch.ones(2), device=ONE).device == ONE
    assert x.new_zeros(2).device == x.new_tensor([1]).device == x.new_full((2,), 1).device == ONE
    assert x.new_ones(1, device="cuda:0").get_device() == 0
    assert x.new(2, 3).shape == (2, 3)
    assert torch.ones(1).new_tensor([1.0], device=ONE).device == ONE


def test_a_tensor_knows_where_it_is() -> None:
    x = torch.ones(2, device=ONE)

    assert isinstance(x, Tensor)
    assert (x.is_cuda, x.is_cpu, x.is_meta, x.get_device()) == (True, False, False, 1)
    assert (x.device.type, x.device.index) == ("cuda", 1)
    assert x.type() == "torch.cuda.FloatTensor"


def test_tensor_types_of_old_scripts() -> None:
    x = torch.cuda.FloatTensor(2, 3)

    assert x.shape == (2, 3)
    assert isinstance(x, torch.cuda.FloatTensor)
    assert not isinstance(x.cpu(), torch.cuda.FloatTensor)
    assert torch.cuda.LongTensor([1, 2]).tolist() == [1, 2]
    assert torch.ones(2).type(torch.cuda.FloatTensor).is_cuda
    assert torch.ones(2).type("torch.cuda.HalfTensor").dtype == torch.float16
    assert x.type(torch.FloatTensor).device.type == "cpu"
    assert torch.ones(2).type_as(x).is_cuda


def test_moving_copies_unless_it_is_there_already() -> None:
    x = torch.ones(3)
    y = x.cuda(1)

    assert y.cuda(1) is y.to("cuda:1") is y.to(ONE) is y.to(1) is y
    assert y.cuda().get_device() == y.to("cuda:0").get_device() == 0
    assert y.cpu().device.type == y.to("cpu").device.type == "cpu"
    assert y.to(device=ONE, copy=True) is not y
    assert y.to(torch.zeros(1, device="cuda:0").double()).dtype == torch.float64
    assert y.double().device == y.to(torch.float16).device == ONE
    assert x.to("cuda:1", torch.float64, non_blocking=True).dtype == torch.float64
    y.zero_()
    assert x.tolist() == [1, 1, 1]
    back = y.cpu()
    back += 1
    assert y.tolist() == [0, 0, 0]


def test_the_gradient_of_a_copy_goes_home() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.to("cuda:1")
    z = (3 * y).to("cuda:0") + x.cuda()
    y.retain_grad()
    z.cpu().sum().backward()

    assert x.grad is not None
    assert (x.grad.device.type, x.grad.tolist()) == ("cpu", [4, 4])
    assert y.grad is not None
    assert y.grad.device == ONE
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "ToCopyBackward0"


def test_copy_crosses_devices_and_carries_gradients() -> None:
    x = torch.arange(3.0, requires_grad=True)
    y = torch.zeros(3, device=ONE).copy_(x)
    y.sum().backward()

    assert x.grad is not None
    assert (x.grad.device.type, x.grad.tolist()) == ("cpu", [1, 1, 1])
    assert torch.zeros(3).copy_(y.detach()).device.type == "cpu"
    assert torch.zeros(3, device="cuda:0").copy_(y.detach(), non_blocking=True).get_device() == 0
    z = y.detach().clone()
    z[0] = torch.tensor(7.0)
    z[1:] = torch.ones(2, device=ONE)
    assert z.tolist() == [7, 1, 1]


def test_operators_refuse_tensors_of_several_devices() -> None:
    here, there, cpu = torch.ones(2), torch.ones(2, device=ONE), torch.ones(2, device="cuda:0")
    refusals: list[Callable[[], Any]] = [
        lambda: here + there,
        lambda: there + cpu,
        lambda: there.add_(torch.ones(2)),
        lambda: F.linear(torch.ones(2, 2), torch.ones(2, 2, device=ONE)),
        lambda: F.linear(torch.ones(1, 2, device=ONE), torch.ones(2, 2)),
        lambda: torch.nn.Linear(2, 2, bias=False)(torch.ones(1, 2, device=ONE)),
        lambda: torch.cat([here, there]),
        lambda: torch.nn.Linear(2, 2).cuda()(torch.ones(1, 2)),
        lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, device=ONE)),
    ]

    for refused in refusals:
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            refused()


def test_numbers_and_indices_may_lie_on_the_cpu() -> None:
    x = torch.arange(3.0, device=ONE)

    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3]
    assert (torch.tensor(1.0) + x).device == ONE
    assert x[torch.tensor([0, 2])].tolist() == [0, 2]


def test_functions_that_make_their_own_tensors_are_not_refused() -> None:
    labels = torch.tensor([0, 2], device=ONE)

    assert F.one_hot(labels).device == torch.combinations(labels).device == ONE
    assert F.pad(torch.ones(1, 1, 4, device=ONE), (1, 2), mode="circular").device == ONE
    assert torch.linalg.matrix_rank(torch.eye(3, device=ONE)).device == ONE


def test_the_way_to_numpy_leads_over_the_cpu() -> None:
    x = torch.ones(2, device="cuda")

    for refused in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            refused()
    assert x.cpu().numpy().tolist() == x.tolist() == [1, 1]
    assert (float(x.sum()), int(x[0]), bool(x[0] > 0)) == (2.0, 1, True)
    assert f"{x.mean():.2f}" == "1.00"


def test_tensors_print_as_those_of_a_gpu() -> None:
    x = torch.tensor([1.0, 2.0], device=ONE)
    w = torch.tensor([1.0, 2.0], device="cuda:0", requires_grad=True)

    assert repr(x) == "tensor([1., 2.], device='cuda:1')"
    assert repr(x.double()) == "tensor([1., 2.], device='cuda:1', dtype=torch.float64)"
    assert repr(w) == "tensor([1., 2.], device='cuda:0', requires_grad=True)"
    assert repr(2 * w) == "tensor([2., 4.], device='cuda:0', grad_fn=<MulBackward0>)"
    assert repr(torch.nn.Parameter(x)) == (
        "Parameter containing:\ntensor([1., 2.], device='cuda:1', requires_grad=True)"
    )
    assert repr(x.device) == "device(type='cuda', index=1)"


def test_a_deep_copy_stays_on_its_gpu() -> None:
    x = torch.ones(2, device=ONE, requires_grad=True)
    x.sum().backward()
    copied = copy.deepcopy(x)

    assert copied is not x
    assert copied.device == ONE
    assert copied.requires_grad
    assert torch.equal(copied, x)
    assert copied.grad is not x.grad
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly"):
        copy.deepcopy(2 * x)


def test_indexing_sorting_and_scattering() -> None:
    x = torch.arange(12.0, device=ONE).view(3, 4)
    rows = torch.tensor([0, 2], device=ONE)

    assert x[rows, rows].tolist() == [0, 10]
    assert x[x > 5].numel() == 6
    assert x[..., None].shape == (3, 4, 1)
    assert {part.device for part in x.unbind(0)} == {ONE}
    assert x.topk(2).values.device == x.max(0)[1].device == x.nonzero().device == ONE
    x[x > 5] = 0
    x[rows] += 1
    x.index_add_(0, rows, torch.ones(2, 4, device=ONE))
    assert x[0, 0].item() == 2
    x.scatter_(1, torch.zeros(3, 1, dtype=torch.long, device=ONE), 9.0)
    assert x[:, 0].tolist() == [9, 9, 9]
    assert torch.where(x > 0, x, torch.zeros_like(x)).device == ONE


def test_shapes_changed_in_place_are_seen_by_all() -> None:
    x = torch.arange(6.0, device=ONE).view(2, 3)
    y = x.clone().t_()
    assert (y.shape, y.stride()) == ((3, 2), (1, 3))
    assert y.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert y.unsqueeze_(0).squeeze_().transpose_(0, 1).tolist() == x.tolist()
    assert torch.empty(0, device=ONE).resize_(2, 2).fill_(3.0).tolist() == [[3, 3], [3, 3]]
    out = torch.empty(0, device=ONE)
    torch.add(x, x, out=out)
    assert out.shape == (2, 3)
    assert out.tolist() == (2 * x).tolist()
    a = torch.zeros(2, device=ONE)
    a.set_(torch.ones(3, device=ONE))
    assert a.tolist() == [1, 1, 1]


def test_views_share_memory_with_their_base() -> None:
    x = torch.arange(6.0, device=ONE).view(2, 3)
    x.view(-1)[0] = 5
    assert x[0, 0].item() == 5
    w = torch.ones(4, device=ONE, requires_grad=True)
    y = w * 1
    part = y[:2]
    part.mul_(3)
    y.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [3, 3, 1, 1]
    assert part._base is y
    assert y._version == 1


def test_storages_are_on_the_gpu_too() -> None:
    x = torch.ones(4, device=ONE)
    storage = x.untyped_storage()

    assert (storage.device, storage.nbytes()) == (ONE, 16)
    assert x[1:].data_ptr() == x.data_ptr() + 4
    assert x[1:].untyped_storage().data_ptr() == storage.data_ptr()
    with pytest.warns(UserWarning, match="TypedStorage is deprecated"):
        assert x.storage().device == ONE
    assert storage.cpu().device.type == "cpu"
    assert torch.ones(2).untyped_storage().cuda(1).device == ONE


def test_pinned_memory_says_that_it_is() -> None:
    x = torch.ones(3).pin_memory()

    assert x.is_pinned()
    assert x[1:].is_pinned()
    assert not torch.ones(3).is_pinned()
    assert not x.cuda(non_blocking=True).is_pinned()
    assert torch.empty(2, pin_memory=True).is_pinned()
    assert torch.tensor([1.0], pin_memory=True).is_pinned()
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        x.cuda().pin_memory()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_pins_its_batches(workers: int) -> None:
    data = TensorDataset(torch.arange(8.0))
    batches = [b for (b,) in DataLoader(data, 4, pin_memory=True, num_workers=workers)]

    assert all(batch.is_pinned() for batch in batches)
    assert [batch.cuda().sum().item() for batch in batches] == [6, 22]


def test_linear_algebra_and_transforms_stay_on_the_gpu() -> None:
    a = torch.randn(4, 4)
    x = a.to(ONE)

    torch.testing.assert_close(torch.linalg.inv(x).cpu(), torch.linalg.inv(a))
    torch.testing.assert_close(torch.einsum("ij,kj->ik", x, x).cpu(), a @ a.T)
    results = (
        torch.linalg.svd(x)[1], torch.fft.fft(x), torch.cat([x, x]), torch.stack([x, x]),
        x.norm(), torch.cumsum(x, 0), torch.sort(x)[1], torch.unique(x.round()),
        torch.view_as_real(torch.view_as_complex(x.view(4, 2, 2))),
    )  # fmt: skip
    assert {result.device for result in results} == {ONE}
    assert math.isclose(x.std().item(), a.std().item(), rel_tol=1e-6)


def test_distributions_draw_on_the_gpu() -> None:
    normal = torch.distributions.Normal(torch.zeros(2, device=ONE), torch.ones(2, device=ONE))

    assert normal.sample().device == normal.rsample().device == ONE
    assert torch.multinomial(torch.ones(4, device=ONE), 2).device == ONE
    assert torch.bernoulli(torch.full((3,), 0.5, device=ONE)).device == ONE
    logits = torch.zeros(3, device="cuda")
    assert torch.distributions.Categorical(logits=logits).sample().is_cuda
