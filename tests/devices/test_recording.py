"""The recorder at work on virtual GPUs: every account balances, and says which GPU it is on."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.devices.nets import ConvNet
from tracer.analysis.balance import check_balance
from tracer.devices import virtual_gpus
from tracer.tracefile import Trace

SAMPLES = Path(__file__).parents[2] / "samples"


def record(path: Path, sample: str, *arguments: str) -> Trace:
    before = sys.argv
    sys.argv = [sample, *arguments]
    try:
        with virtual_gpus(2), tracer.Recorder(path) as recorder:
            runpy.run_path(str(SAMPLES / sample), run_name="__main__")
    finally:
        sys.argv = before
    assert recorder.failure == ""
    return tracer.load(path)


def test_the_books_of_the_replicas_balance(tmp_path: Path) -> None:
    with record(tmp_path / "x.trace", "replicas.py") as trace:
        report = check_balance(trace)
        devices = {form.device for form in trace.forms.values()}
        buffers = {buffer.device for buffer in trace.buffers.values()}
        contents = []
        for call in trace.calls[:3]:
            rows = trace.measurements(call)
            after = [r for r in trace.layout(call.layout).readings if r.moment == "after"]
            assert after[0].row is not None
            contents.append(rows[after[0].row].values)

    assert report.is_balanced
    assert (report.unchecked, report.buffers) == (0, 12)
    assert devices == {"cuda:0", "cuda:1"}
    assert buffers == {"cuda:0"}
    assert contents == [(1.5,), (3.0,), (4.5,)]


@pytest.mark.parametrize("convention", ["darknet", "gluon"])
def test_the_books_of_a_detector_balance(tmp_path: Path, convention: str) -> None:
    options = ["--steps", "2", "--image-size", "32", "--batch", "4", "--convention", convention]
    with record(tmp_path / "x.trace", "yolo_toy.py", *options) as trace:
        report = check_balance(trace)

    assert report.is_balanced
    assert report.unchecked == 0
    assert report.buffers > 100
    assert report.worst < 1e-5


def gradients(path: Path | None) -> list[torch.Tensor]:
    torch.manual_seed(3)
    with virtual_gpus(2):
        net = ConvNet().cuda()
        images = torch.randn(5, 3, 8, 8).cuda()
        recorder = tracer.Recorder(path) if path else None
        if recorder:
            recorder.start()
        with torch.autocast("cuda"):
            loss = F.cross_entropy(nn.DataParallel(net)(images), images.new_zeros(5).long())
        loss.backward()
        if recorder:
            recorder.stop()
            assert recorder.failure == ""
        return [p.grad.cpu() for p in net.parameters() if p.grad is not None]


def test_recording_changes_no_bit_of_mixed_precision_on_two_gpus(tmp_path: Path) -> None:
    alone, watched = gradients(None), gradients(tmp_path / "x.trace")

    assert len(alone) == len(watched) == 9
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    with tracer.load(tmp_path / "x.trace") as trace:
        report = check_balance(trace)
    assert report.is_balanced
    assert report.unchecked == 0


def test_a_module_moved_while_recording_keeps_its_buffers(tmp_path: Path) -> None:
    with virtual_gpus(2), tracer.Recorder(tmp_path / "x.trace") as recorder:
        net = nn.Linear(2, 2)
        net(torch.ones(1, 2)).sum().backward()
        net.cuda()
        net(torch.ones(1, 2).cuda()).sum().backward()

    assert recorder.failure == ""
    with tracer.load(tmp_path / "x.trace") as trace:
        assert check_balance(trace).is_balanced
        assert {buffer.name for buffer in trace.buffers.values()} == {"weight", "bias"}
