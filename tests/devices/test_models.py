"""Whole models on virtual GPUs against the same models on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.devices.nets import LanguageModel, small_resnet

pytestmark = pytest.mark.usefixtures("two_gpus")


def assert_same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # Broadcast hands zeros to a parameter where a single model hands nothing.
        expected = torch.zeros_like(b) if b.grad is None else b.grad
        found = torch.zeros_like(a) if a.grad is None else a.grad
        assert found.device == a.device, name
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_with_tied_weights() -> None:
    model = LanguageModel()
    reference = copy.deepcopy(model)
    tokens, targets = torch.randint(0, 50, (7, 9)), torch.randint(0, 50, (7, 9))

    out = nn.DataParallel(model.cuda())(tokens.cuda())
    F.cross_entropy(out.flatten(0, 1), targets.cuda().flatten()).backward()
    F.cross_entropy(reference(tokens).flatten(0, 1), targets.flatten()).backward()

    assert model.output.weight is model.embedding.weight
    assert_same_gradients(model, reference)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens.cuda()).cpu(), reference.eval()(tokens))


def test_a_residual_net_with_frozen_parts_and_work_in_place() -> None:
    model = small_resnet()
    model[0].requires_grad_(False)
    model.eval()  # batch norm of a replica sees half of the batch
    reference = copy.deepcopy(model)
    images, labels = torch.randn(6, 3, 16, 16), torch.randint(0, 10, (6,))

    F.cross_entropy(nn.DataParallel(model.cuda())(images.cuda()), labels.cuda()).backward()
    F.cross_entropy(reference(images), labels).backward()

    assert_same_gradients(model, reference)


def test_a_recurrent_net() -> None:
    model = nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True)
    reference = copy.deepcopy(model)
    x = torch.randn(6, 4, 5)

    nn.DataParallel(model.cuda())(x.cuda())[0].pow(2).sum().backward()
    reference(x)[0].pow(2).sum().backward()

    assert_same_gradients(model, reference)


def test_a_model_spread_over_two_gpus_by_hand() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.first(x.to(self.first.weight.device)))
            out: Tensor = self.second(hidden.to(self.second.weight.device))
            return out

    model = Spread()
    reference = copy.deepcopy(model)
    model.first.to("cuda:0")
    model.second.to("cuda:1")
    x = torch.randn(3, 4)
    model(x).sum().backward()
    reference(x).sum().backward()

    assert_same_gradients(model, reference)


def test_a_gradient_penalty_goes_twice_through_data_parallel() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    reference = copy.deepcopy(model)
    x = torch.randn(6, 3)
    for net, run, device in (
        (model.cuda(), nn.DataParallel(model), "cuda"), (reference, reference, "cpu"),
    ):  # fmt: skip
        images = x.to(device).requires_grad_()
        (gradient,) = torch.autograd.grad(run(images).sum(), images, create_graph=True)
        ((gradient.norm(2, 1) - 1) ** 2).mean().backward()
        assert net[0].weight.grad is not None

    assert_same_gradients(model, reference)
