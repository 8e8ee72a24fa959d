"""Modules and optimizers: parameters keep their identity wherever their values go."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

pytestmark = pytest.mark.usefixtures("two_gpus")

ONE = torch.device("cuda", 1)


def test_an_optimizer_made_before_the_move_trains_the_moved_parameters() -> None:
    net = nn.Linear(2, 1)
    weight = net.weight
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net.cuda()
    net(torch.ones(2, 2, device="cuda")).sum().backward()
    before = net.weight.detach().clone()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())

    assert net.weight is weight
    assert isinstance(weight, nn.Parameter)
    assert not torch.equal(before, weight.detach())
    assert optimizer.state[weight]["exp_avg"].is_cuda


def test_tied_weights_stay_tied() -> None:
    embedding, output = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
    output.weight = embedding.weight
    both = nn.ModuleList([embedding, output]).cuda()

    assert both[0].weight is both[1].weight
    both.cpu()
    assert both[0].weight is both[1].weight
    assert type(both[0].weight) is nn.Parameter


def test_gradients_move_with_their_parameters() -> None:
    net = nn.Linear(2, 2)
    loss = net(torch.ones(1, 2)).sum()
    loss.backward()
    for device in ("cuda:0", "cpu", "cuda:1"):
        net.to(device)
        assert net.weight.grad is not None
        assert str(net.weight.grad.device) == str(net.weight.device) == device
        assert net.weight.grad.tolist() == [[1, 1], [1, 1]]


def test_hooks_and_weak_references_survive_a_move() -> None:
    net = nn.Linear(2, 2)
    seen = []
    net.weight.register_hook(lambda gradient: seen.append(str(gradient.device)))
    known = weakref.ref(net.weight)
    net.cuda(1)
    net(torch.ones(1, 2, device=ONE)).sum().backward()

    assert known() is net.weight
    assert seen == ["cuda:1"]


def test_data_can_be_replaced_by_values_elsewhere() -> None:
    weight = same = nn.Parameter(torch.ones(2))
    weight.data = weight.data.cuda(1)
    weight.data = 2 * weight.data
    plain = torch.ones(2)
    plain.data = plain.data.cuda()

    assert weight is same
    assert isinstance(weight, nn.Parameter)
    assert weight.is_leaf
    assert (weight.device, weight.tolist()) == (ONE, [2, 2])
    assert plain.is_cuda


def test_modules_are_converted_made_and_emptied_on_gpus() -> None:
    net = nn.Linear(2, 2).to("cuda:1").half()
    assert (net.weight.dtype, net.weight.device) == (torch.float16, ONE)
    net.to(device="cuda:0", dtype=torch.float64)
    assert net.weight.get_device() == 0
    made = nn.Linear(2, 2, device=ONE)
    nn.init.xavier_uniform_(made.weight)
    assert made.to_empty(device="cuda:0").weight.get_device() == 0
    assert copy.deepcopy(made).weight.get_device() == 0
    lazy = nn.LazyLinear(3).cuda(1)
    assert lazy(torch.ones(2, 4, device=ONE)).device == lazy.weight.device == ONE
    nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(2).cuda())


def test_parametrized_weights_are_made_on_the_gpu() -> None:
    for wrap in (parametrizations.spectral_norm, parametrizations.weight_norm):
        net = wrap(nn.Linear(3, 3)).cuda()
        net(torch.ones(1, 3, device="cuda")).sum().backward()
        assert net.weight.is_cuda


def test_the_state_dict_goes_both_ways() -> None:
    net, other = nn.BatchNorm1d(2).cuda(1), nn.BatchNorm1d(2)
    other.load_state_dict(net.state_dict())
    net.load_state_dict(other.state_dict())

    assert {value.device for value in net.state_dict().values()} == {ONE}
    assert {value.device.type for value in other.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"foreach": True}),
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.Adam, {"foreach": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Adagrad, {}),
    ],
)
def test_optimizers_take_the_steps_that_they_take_on_the_cpu(
    kind: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    nets = [nn.Linear(3, 2)]
    nets.append(copy.deepcopy(nets[0]).cuda(1))
    x = torch.randn(4, 3)
    for net in nets:
        optimizer = kind(net.parameters(), lr=0.1, **options)
        for _ in range(3):
            optimizer.zero_grad()
            net(x.to(net.weight.device)).pow(2).sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()

    torch.testing.assert_close(nets[1].weight.cpu(), nets[0].weight)
    vector = nn.utils.parameters_to_vector(nets[1].parameters())
    nn.utils.vector_to_parameters(vector, nets[1].parameters())


def grad_of(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.ConvTranspose2d(4, 2, 2), nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4), nn.LayerNorm(8), nn.PReLU(), nn.ReflectionPad2d(1),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelShuffle(2), nn.GELU(), nn.Softmax(1),
        nn.Conv2d(4, 4, 3, groups=4), nn.Unfold(2), nn.Hardswish(), nn.LocalResponseNorm(2),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_layers_compute_what_they_compute_on_the_cpu(layer: nn.Module) -> None:
    images = torch.randn(2, 4, 8, 8)
    here, there = images.clone().requires_grad_(), images.to(ONE).requires_grad_()
    expected = layer(here)
    expected.square().sum().backward()
    out = copy.deepcopy(layer).to(ONE)(there)
    out.square().sum().backward()

    assert out.device == grad_of(there).device == ONE
    torch.testing.assert_close(out.cpu(), expected)
    torch.testing.assert_close(grad_of(there).cpu(), grad_of(here), rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_cpu() -> None:
    x, labels, soft = torch.randn(4, 5), torch.arange(4), torch.rand(4, 5)
    for loss in (F.cross_entropy, F.nll_loss, F.multi_margin_loss):
        torch.testing.assert_close(loss(x.to(ONE), labels.to(ONE)).cpu(), loss(x, labels))
    for loss in (F.mse_loss, F.smooth_l1_loss, F.binary_cross_entropy_with_logits):
        here, there = x.clone().requires_grad_(), x.to(ONE).requires_grad_()
        loss(here, soft).backward()
        loss(there, soft.to(ONE)).backward()
        torch.testing.assert_close(grad_of(there).cpu(), grad_of(here))
    log_probs = torch.randn(6, 2, 4).log_softmax(2)
    targets, lengths = torch.randint(1, 4, (2, 3)), (torch.tensor([6, 6]), torch.tensor([3, 2]))
    expected = F.ctc_loss(log_probs, targets, *lengths)
    torch.testing.assert_close(
        F.ctc_loss(log_probs.to(ONE), targets.to(ONE), *lengths).cpu(), expected
    )


def test_a_sparse_gradient_is_sparse_on_the_gpu() -> None:
    embedding = nn.Embedding(5, 3, sparse=True).to(ONE)
    embedding(torch.tensor([1, 1, 2], device=ONE)).sum().backward()

    gradient = grad_of(embedding.weight)
    assert gradient.is_sparse
    assert gradient.device == ONE
    assert gradient.to_dense().sum().item() == 9
    torch.optim.SparseAdam(embedding.parameters()).step()


def test_packed_sequences_and_cells_of_recurrent_layers() -> None:
    gru, cell, x = nn.GRU(3, 4), nn.GRUCell(3, 4), torch.randn(5, 2, 3)
    pack, unpack = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence
    expected, step = unpack(gru(pack(x, [5, 3]))[0])[0], cell(x[0])
    packed = pack(x.to(ONE), [5, 3])
    out = unpack(gru.to(ONE)(packed)[0])[0]

    assert packed.is_cuda
    torch.testing.assert_close(out.cpu(), expected)
    torch.testing.assert_close(cell.to(ONE)(x[0].to(ONE)).cpu(), step)


def test_attention_runs_in_half_precision_and_with_dropout() -> None:
    q = torch.randn(1, 2, 4, 8)
    expected = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    there = q.cuda()

    out = F.scaled_dot_product_attention(there, there, there, is_causal=True)
    torch.testing.assert_close(out.cpu(), expected)
    half = there.half()
    assert F.scaled_dot_product_attention(half, half, half, dropout_p=0.1).dtype == torch.float16


def test_channels_last_is_kept_on_the_way() -> None:
    conv = nn.Conv2d(3, 4, 3).cuda().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 6, 6).cuda().to(memory_format=torch.channels_last)

    assert conv(images).is_contiguous(memory_format=torch.channels_last)
