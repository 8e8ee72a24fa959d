"""Every way of using autograd: the books balance, and the observer changes nothing."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_pre_hooks

import tracer
from tests.record.scenarios import SCENARIOS, Scenario
from tracer.analysis.balance import check_balance
from tracer.tracefile import Trace

UNBALANCED_BY_DESIGN = {
    "function_that_writes_into_what_it_received": 0,
    "hooks_that_change_gradients": 4,
}
"""Scenarios in which hooks of the user change what arrives: the accounts they explain."""

Record = Callable[[Scenario], tuple[Trace, list[torch.Tensor]]]


def bits(tensors: list[torch.Tensor]) -> list[bytes]:
    """The elements of each tensor as bytes: NaN equals NaN, 0 does not equal -0."""
    # A copy: gradients may be conjugate views, or zeros without any memory (that of sgn).
    plain = [torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for t in tensors]
    return [ctypes.string_at(t.data_ptr(), t.numel() * t.element_size()) for t in plain]


def alone(scenario: Scenario) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return scenario()


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    opened = []

    def run(scenario: Scenario) -> tuple[Trace, list[torch.Tensor]]:
        torch.manual_seed(0)
        with tracer.Recorder(tmp_path / "run.trace") as recorder:
            found = scenario()
        assert recorder.failure == ""
        opened.append(tracer.load(tmp_path / "run.trace"))
        return opened[-1], found

    yield run
    for trace in opened:
        trace.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_gradients_and_random_numbers_are_the_same_bits(name: str, record: Record) -> None:
    expected = alone(SCENARIOS[name])
    state = torch.get_rng_state()

    _, found = record(SCENARIOS[name])

    assert bits(found) == bits(expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SCENARIOS)
def test_contributions_add_up(name: str, record: Record) -> None:
    trace, _ = record(SCENARIOS[name])

    report = check_balance(trace)

    assert trace.calls
    assert report.imbalances == ()
    if name in UNBALANCED_BY_DESIGN:
        assert report.explained >= UNBALANCED_BY_DESIGN[name]
    assert report.fan_ins


def test_the_user_sees_no_trace_of_us_in_torch(record: Record) -> None:
    def owned() -> list[object]:
        return [
            vars(owner)[name]
            for owner, name in (
                (torch.autograd, "_engine_run_backward"),
                (torch.autograd.graph, "_engine_run_backward"),
                (torch.Tensor, "register_hook"),
                (torch.nn.Module, "zero_grad"),
                (torch.optim.Optimizer, "zero_grad"),
                (torch, "set_anomaly_enabled"),
                (torch, "is_anomaly_enabled"),
                (torch, "is_anomaly_check_nan_enabled"),
                (sys.modules["torch.fx.traceback"], "format_stack"),
                (torch.autograd.function.BackwardCFunction, "apply"),
            )
        ]

    before = owned()

    record(SCENARIOS["accumulation_clipping_and_adam"])

    assert all(a is b for a, b in zip(owned(), before, strict=True))
    assert not _global_optimizer_pre_hooks
    assert not torch.is_anomaly_enabled()
