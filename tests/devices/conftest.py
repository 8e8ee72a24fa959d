"""Machines with virtual GPUs, for as long as a test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tracer.devices import virtual_gpus


@pytest.fixture
def one_gpu() -> Iterator[None]:
    with virtual_gpus(1):
        yield


@pytest.fixture
def two_gpus() -> Iterator[None]:
    with virtual_gpus(2):
        yield


@pytest.fixture
def four_gpus() -> Iterator[None]:
    with virtual_gpus(4):
        yield


@pytest.fixture(autouse=True)
def _same_numbers_in_every_order_of_tests() -> None:
    torch.manual_seed(0)
