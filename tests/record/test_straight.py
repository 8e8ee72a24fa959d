"""Between a backward call and its step: what may have changed a gradient, and is read again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    _global_optimizer_pre_hooks,
    register_optimizer_step_pre_hook,
)

import tracer
from tracer.record import large
from tracer.record.straight import is_straight

Run = Callable[[nn.Linear, torch.optim.Optimizer, torch.Tensor], None]

WIDE = 300
"""A layer of 300 x 300 is measured as a large tensor, its bias as a small one."""


def straight(model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()


def through_data(model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    model.weight.grad.data /= 4  # type: ignore[union-attr]
    optimizer.step()


def by_a_function(model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    quarter(model)
    optimizer.step()


def in_a_loop(model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    for parameter in (model.weight,):
        parameter.grad.data /= 4  # type: ignore[union-attr]
    optimizer.step()


def after_the_helper_that_went_back(
    model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor
) -> None:
    backward_and_quarter(model, x)
    optimizer.step()


def in_the_step_of_a_class(
    model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor
) -> None:
    step = optimizer.step

    def quartering() -> None:
        quarter(model)
        step()

    optimizer.step = quartering  # type: ignore[method-assign, assignment]
    model(x).square().mean().backward()
    optimizer.step()


def in_another_hook_before_the_step(
    model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor
) -> None:
    handle = register_optimizer_step_pre_hook(lambda *_: quarter(model))
    _global_optimizer_pre_hooks.move_to_end(handle.id, last=False)
    try:
        model(x).square().mean().backward()
        optimizer.step()
    finally:
        handle.remove()


def by_jumping_between(model: nn.Linear, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    for again in (False, True):
        if again:
            quarter(model)
        else:
            model(x).square().mean().backward()
            continue
        optimizer.step()


def quarter(model: nn.Linear) -> None:
    assert model.weight.grad is not None
    assert model.bias.grad is not None
    model.weight.grad.data /= 4
    model.bias.grad.numpy()[:] /= 4


def backward_and_quarter(model: nn.Linear, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    quarter(model)


def consumed(path: Path, run: Run) -> dict[str, tuple[float, float]]:
    """For weight and bias the norm that the trace says was consumed, and that of the `.grad`."""
    torch.manual_seed(0)
    model = nn.Linear(WIDE, WIDE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.Recorder(path):
        run(model, optimizer, torch.randn(8, WIDE))
    with tracer.load(path) as trace:
        (step,) = trace.steps
        rows = trace.measurements(step)
        found = {
            trace.buffers[reading.buffer].name: rows[reading.row].norm
            for reading in trace.layout(step.layout).readings
            if reading.moment == "consumed" and reading.row is not None
        }
    true = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    return {name: (found[name], true[name]) for name in true}


EDITED: tuple[Run, ...] = (
    through_data,
    by_a_function,
    in_a_loop,
    after_the_helper_that_went_back,
    in_the_step_of_a_class,
    in_another_hook_before_the_step,
    by_jumping_between,
)


@pytest.mark.parametrize("run", [straight, *EDITED], ids=lambda run: run.__name__)
def test_a_step_consumes_what_is_in_the_buffers_whatever_came_before_it(
    tmp_path: Path, run: Run
) -> None:
    if run is not straight:
        pytest.importorskip("numpy")

    for found, true in consumed(tmp_path / "run.trace", run).values():
        assert found == pytest.approx(true, rel=1e-5)


def test_gradients_are_not_read_again_where_the_step_follows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    recall = large.recall

    def counting(tensor: torch.Tensor) -> large.Found | None:
        looked_at.append(tensor.numel())
        return recall(tensor)

    monkeypatch.setattr(large, "recall", counting)

    consumed(tmp_path / "at_once.trace", straight)
    at_once = list(looked_at)
    consumed(tmp_path / "later.trace", through_data)

    assert at_once == []
    assert looked_at == [WIDE * WIDE]


@pytest.mark.parametrize("elements", [3, 40, 20_000])
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128],
    ids=str,
)
@pytest.mark.parametrize("detail", ["edges", "buffers"])
def test_a_step_at_once_has_the_numbers_of_one_that_reads_again(
    tmp_path: Path, elements: int, dtype: torch.dtype, detail: str
) -> None:
    weight = torch.randn(elements, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)

    with tracer.Recorder(tmp_path / "run.trace", detail=detail):
        for again in (False, True):
            optimizer.zero_grad()
            (weight * weight.detach().conj()).abs().sum().backward()
            if not again:
                optimizer.step()
                continue
            str(weight.grad)
            optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        at_once, again_read = (
            [
                trace.measurements(step)[reading.row]
                for reading in trace.layout(step.layout).readings
                if reading.moment == "consumed" and reading.row is not None
            ]
            for step in trace.steps
        )
    assert len(at_once) == 1
    assert at_once == again_read


def lines_of(function: Callable[..., Any]) -> list[int]:
    """Where `f_lasti` stands in each call of `mark` that a function makes."""
    found: list[int] = []

    def mark(*_: object) -> None:
        found.append(sys._getframe(1).f_lasti)

    function(mark)
    return found


def test_calls_with_only_names_between_are_straight() -> None:
    def function(mark: Callable[..., None]) -> None:
        mark()
        mark(mark)
        mark.__call__()

    first, second, third = lines_of(function)
    code = function.__code__
    assert is_straight(code, first, second)
    assert is_straight(code, second, third)
    assert not is_straight(code, first, third)
    assert not is_straight(code, second, first)
    assert not is_straight(code, first, first)


def test_calls_with_a_jump_between_are_not_straight() -> None:
    def function(mark: Callable[..., None]) -> None:
        for _ in range(2):
            mark()
        mark()
        if mark:
            mark()
        try:
            mark()
        finally:
            mark()

    first, again, behind, inside, tried, *_ = lines_of(function)
    code = function.__code__
    assert first == again
    assert not is_straight(code, first, behind)
    assert not is_straight(code, behind, inside)
    assert not is_straight(code, inside, tried)


def test_calls_with_an_assignment_or_arithmetic_between_are_not_straight() -> None:
    def function(mark: Callable[..., None]) -> None:
        held = [4]
        mark()
        held[0] = 1
        mark()
        held[0] / 2
        mark()

    one, two, three = lines_of(function)
    assert not is_straight(function.__code__, one, two)
    assert not is_straight(function.__code__, two, three)
