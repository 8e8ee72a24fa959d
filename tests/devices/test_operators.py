"""Torch's own samples of its operators, on a virtual GPU against the CPU."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map_only

pytestmark = pytest.mark.usefixtures("two_gpus")

ONE = torch.device("cuda", 1)

RANDOM = ("rand", "dropout", "empty", "normal", "bernoulli", "multinomial", "rrelu", "uniform")
"""Parts of the names of operators whose values are not told by their inputs."""

WITHOUT_HOME = {
    "cat", "copysign", "max_pool2d_with_indices_backward", "nextafter", "normal", "repeat", "sgn",
    "tile",
}  # fmt: skip
"""C++ makes up the zeros that these have for a gradient, some of them for empty inputs only."""

SKIPPED = {
    "to",  # its samples ask for the CPU
    "sparse.mm",  # CUDA does not have its `reduce`
}

NAMES = sorted({op.name for op in op_db if not op.name.startswith("jiterator")} - SKIPPED)

QUICK = random.Random(0).sample(NAMES, 60)


def moved(thing: Any, device: torch.device | None) -> Any:
    def copied(tensor: Tensor) -> Tensor:
        there = tensor.detach().clone() if device is None else tensor.detach().to(device)
        return there.requires_grad_(tensor.requires_grad)

    return tree_map_only(Tensor, copied, thing)


def results(op: Any, sample: Any, device: torch.device | None) -> tuple[list[Tensor], list[Any]]:
    """What an operator returns, and the gradients of its inputs."""
    input_, args, kwargs = moved((sample.input, sample.args, sample.kwargs), device)
    if device is not None and "device" in kwargs:
        kwargs["device"] = device
    torch.manual_seed(0)
    outs = [t for t in tree_leaves(op(input_, *args, **kwargs)) if isinstance(t, Tensor)]
    leaves = [t for t in tree_leaves((input_, args, kwargs)) if isinstance(t, Tensor)]
    leaves = [t for t in leaves if t.requires_grad]
    roots = [(t.abs() if t.is_complex() else t).sum() for t in outs if t.requires_grad]
    if not (roots and leaves and op.supports_autograd):
        return outs, []
    return outs, list(torch.autograd.grad(sum(roots), leaves, allow_unused=True))


def samples(op: Any) -> Iterator[Any]:
    dtype = torch.float32 if torch.float32 in op.dtypes else torch.int64
    if dtype not in op.dtypes:
        return
    grad = op.supports_autograd and dtype is torch.float32
    for _, sample in zip(
        range(6), op.sample_inputs("cpu", dtype, requires_grad=grad), strict=False
    ):
        yield sample


def compare(op: Any) -> int:
    """How many samples gave on a GPU what they give on the CPU, there."""
    compared = 0
    for sample in samples(op):
        try:
            outs, gradients = results(op, sample, None)
        except (RuntimeError, NotImplementedError):
            continue  # not for the CPU
        found, found_gradients = results(op, sample, ONE)
        has_input = any(isinstance(t, Tensor) for t in tree_leaves((sample.input, sample.args)))
        for a, b in zip(outs, found, strict=True):
            assert not has_input or b.device == ONE
            if not any(part in op.name for part in RANDOM):
                torch.testing.assert_close(
                    b.cpu(), a, rtol=1e-3, atol=1e-4, equal_nan=True, check_stride=False
                )
        for a, b in zip(gradients, found_gradients, strict=True):
            assert (a is None) == (b is None)
            assert b is None or b.device == ONE or op.name in WITHOUT_HOME
        compared += 1
    return compared


def test_some_operators_compute_what_they_compute_on_the_cpu() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compared = sum(compare(op) for op in op_db if op.name in QUICK)

    assert compared > 200


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_every_operator_computes_what_it_computes_on_the_cpu(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in op_db:
            if op.name == name:
                compare(op)
