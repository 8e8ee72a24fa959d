"""Known changes of buffers between the calls and the step: what they did, by their own account."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import tracer
from tracer.events import Edit, Measurement
from tracer.tracefile import Trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def content(trace: Trace, edit: Edit, moment: str) -> list[Measurement]:
    rows = trace.measurements(edit)
    readings = trace.layout(edit.layout).readings
    return [rows[r.row] for r in readings if r.moment == moment and r.row is not None]


def record(path: Path, change: Callable[[nn.Module], Any]) -> tuple[Trace, nn.Module, nn.Module]:
    """The same change to the same gradients, recorded and not."""
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    plain(torch.randn(5, 4)).square().sum().backward()
    traced = copy.deepcopy(plain)
    for ours, theirs in zip(traced.parameters(), plain.parameters(), strict=True):
        ours.grad = theirs.grad.clone() if theirs.grad is not None else None
    change(plain)
    with tracer.Recorder(path) as recorder:
        change(traced)
    assert recorder.failure == ""
    return tracer.load(path), plain, traced


def test_a_clip_by_norm_keeps_its_coefficient_even_if_imported_by_name(path: Path) -> None:
    trace, plain, traced = record(path, lambda m: clip_grad_norm_(m.parameters(), 0.5))

    (edit,) = trace.edits
    before, after = content(trace, edit, "before"), content(trace, edit, "after")
    assert edit.kind == "clip_grad_norm"
    assert edit.details["max_norm"] == 0.5
    for b, a in zip(before, after, strict=True):
        assert a.norm / b.norm == pytest.approx(edit.details["coefficient"], rel=1e-5)
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(plain.parameters(), traced.parameters(), strict=True)
        if a.grad is not None and b.grad is not None
    )


def test_parameters_given_twice_are_clipped_twice_as_torch_does(path: Path) -> None:
    def clip(model: nn.Module) -> None:
        clip_grad_norm_([*model.parameters(), *model.parameters()], 0.5)

    trace, plain, traced = record(path, clip)

    assert [p.grad.norm() for p in plain.parameters() if p.grad is not None] == [
        p.grad.norm() for p in traced.parameters() if p.grad is not None
    ]
    trace.close()


def test_a_clip_by_value_is_noted(path: Path) -> None:
    trace, _, _ = record(path, lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.1))

    (edit,) = trace.edits
    assert (edit.kind, edit.details) == ("clip_grad_value", {"clip_value": 0.1})
    assert max(m.largest for m in content(trace, edit, "after")) == pytest.approx(0.1)


def scaled_training(steps: int, overflow: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).mean()
        if overflow and step == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return model


def test_loss_scaling_is_unscaled_by_its_scale(path: Path) -> None:
    with tracer.Recorder(path) as recorder:
        scaled_training(1, overflow=False)

    assert recorder.failure == ""
    with tracer.load(path) as trace:
        kinds = [e.kind if isinstance(e, Edit) else type(e).__name__ for e in trace.events]
        assert kinds == ["Call", "unscale", "Step", "scale_update"]
        unscale = trace.edits[0]
        assert unscale.details == {"scale": 1024.0}
        before, after = content(trace, unscale, "before"), content(trace, unscale, "after")
        assert [b.norm for b in before] == pytest.approx([1024 * a.norm for a in after])


def test_a_step_that_the_scaler_skips_is_said_to_be_skipped(path: Path) -> None:
    plain = scaled_training(3, overflow=True)

    with tracer.Recorder(path) as recorder:
        traced = scaled_training(3, overflow=True)

    assert recorder.failure == ""
    assert all(map(torch.equal, plain.parameters(), traced.parameters()))
    with tracer.load(path) as trace:
        assert [s.step for s in trace.steps] == [1, 2]
        skipped = [e for e in trace.edits if e.kind == "step_skipped"]
        assert [e.details for e in skipped] == [{"optimizer": "SGD"}]
        updates = [e.details for e in trace.edits if e.kind == "scale_update"]
        assert updates[1] == {"before": 1024.0, "after": 512.0}
