"""The samples under the tracer: same output, same bits, books that balance, their numbers."""

from __future__ import annotations

import ctypes
import hashlib
import runpy
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import tracer
from tracer.analysis.balance import check_balance
from tracer.graph.build import build
from tracer.tracefile import Trace

SAMPLES = Path(__file__).parent.parent / "samples"

RUNS: dict[str, Sequence[str]] = {
    "repeated_backward.py": (),
    "batch_size.py": (),
    "replicas.py": (),
    "yolo_toy.py darknet": ("--convention", "darknet"),
    "yolo_toy.py gluon": ("--convention", "gluon"),
    "yolo_toy.py ultralytics": ("--convention", "ultralytics"),
}

Run = Callable[[str], "Outcome"]


class Outcome:
    """What a run printed and left: parameters, gradients and the state of the random numbers."""

    def __init__(self, printed: str, namespace: dict[str, Any]) -> None:
        self.printed = printed
        self.random_state = torch.get_rng_state().tolist()
        digest = hashlib.sha256()
        for value in namespace.values():
            for tensor in _tensors(value):
                digest.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
        self.bits = digest.hexdigest()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.nn.Module):
        found = [*value.parameters(), *value.buffers()]
        return [t for p in found for t in (p.detach().contiguous(), *_gradient(p))]
    if isinstance(value, torch.Tensor):
        return [value.detach().contiguous(), *_gradient(value)]
    return []


def _gradient(tensor: torch.Tensor) -> list[torch.Tensor]:
    return [] if not tensor.is_leaf or tensor.grad is None else [tensor.grad.contiguous()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def start(name: str) -> Outcome:
        script = SAMPLES / name.split()[0]
        monkeypatch.setattr(sys, "argv", [str(script), *RUNS[name]])
        torch.manual_seed(0)
        if script.stem == "yolo_toy":  # its model lives in a function, which returns it
            toy = runpy.run_path(str(script))
            namespace = {"model": toy["train"](toy["parse"](list(RUNS[name])))}
        else:
            namespace = runpy.run_path(str(script), run_name="__main__")
        return Outcome(capsys.readouterr().out, namespace)

    return start


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_a_traced_sample_is_the_same_run_and_balances(
    name: str, every: int, run: Run, tmp_path: Path
) -> None:
    plain = run(name)

    with tracer.Recorder(tmp_path / "run.trace", every=every) as recorder:
        traced = run(name)

    assert recorder.failure == ""
    assert traced.printed == plain.printed != ""
    assert traced.bits == plain.bits
    assert traced.random_state == plain.random_state
    with tracer.load(tmp_path / "run.trace") as trace:
        report = check_balance(trace)
        assert report.imbalances == ()
        assert report.explained == 0
        assert report.unchecked == 0
        assert report.worst < 2e-6  # float32 sums of 1,024 terms at a time


def record(name: str, run: Run, folder: Path) -> Trace:
    with tracer.Recorder(folder / "run.trace"):
        run(name)
    return tracer.load(folder / "run.trace")


def test_in_the_graph_the_averaging_node_says_one_over_n_and_the_summing_ones_say_n(
    run: Run, tmp_path: Path
) -> None:
    with record("batch_size.py", run, tmp_path) as trace:
        graph = build(trace)
        heads: dict[int, tuple[str, Any]] = {}
        sums: dict[int, int] = {}
        for sender, _, edge in graph.edges(data=True):
            name = graph.nodes[sender]["name"]
            if name in ("MeanBackward0", "SumBackward0"):
                heads[edge["call"]] = (edge["words"], edge["factor"])
            elif name == "MulBackward0":
                sums[edge["call"]] = edge["summed"]
    assert list(heads.values()) == [
        ("mean of 1", 1), ("sum over 1 items", 1),
        ("mean of 2", Fraction(1, 2)), ("sum over 2 items", 1),
        ("mean of 4", Fraction(1, 4)), ("sum over 4 items", 1),
        ("mean of 16", Fraction(1, 16)), ("sum over 16 items", 1),
    ]  # fmt: skip
    assert list(sums.values()) == [1, 1, 2, 2, 4, 4, 16, 16]


def test_the_mean_gives_the_same_gradient_at_every_batch_size_and_the_sum_does_not(
    run: Run, tmp_path: Path
) -> None:
    with record("batch_size.py", run, tmp_path) as trace:
        after = []
        for call in trace.calls:
            (reading,) = [r for r in trace.layout(call.layout).readings if r.moment == "after"]
            assert reading.row is not None
            after.append(trace.measurements(call)[reading.row].values)
    assert after == [(3,), (3,), (3,), (6,), (3,), (12,), (3,), (48,)]
