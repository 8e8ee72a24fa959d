"""PyTorch's own operator samples through the recorder: same bits, and the books balance.

Long: run with `pytest -m sweep`. Prints how many operators and samples were covered.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tracer
from tests.record.test_scenarios import bits
from tracer.analysis.balance import BalanceReport, check_balance

pytestmark = pytest.mark.sweep
pytest.importorskip("expecttest", reason="torch's operator database needs expecttest")


def operators(dtype: torch.dtype) -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if op.supports_autograd and dtype in op.supported_dtypes("cpu")]


def leaves(thing: Any) -> Iterator[torch.Tensor]:
    """The tensors of a sample that can have a gradient."""
    if isinstance(thing, torch.Tensor):
        if thing.requires_grad:
            yield thing
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from leaves(item)
    elif isinstance(thing, dict):
        yield from leaves(list(thing.values()))


def outputs(thing: Any) -> list[torch.Tensor]:
    return [t for t in leaves(thing) if t.is_floating_point() or t.is_complex()]


def gradients(op: Any, sample: Any) -> list[torch.Tensor] | None:
    """Run one sample forward and backward; None where torch itself refuses."""
    inputs = [sample.input, sample.args, sample.kwargs]
    for leaf in leaves(inputs):
        leaf.grad = None
    torch.manual_seed(0)
    try:
        roots = outputs(op(sample.input, *sample.args, **sample.kwargs))
        if not roots:
            return None
        given = [torch.ones_like(root) for root in roots]
        torch.autograd.backward(roots, given)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    return [leaf.grad for leaf in leaves(inputs) if leaf.grad is not None]


def strided(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t if t.layout is torch.strided else t.to_dense() for t in tensors]


def samples_of(op: Any, dtype: torch.dtype) -> list[Any]:
    # Made anew for each run: some operators write into their samples (running statistics).
    torch.manual_seed(0)
    return list(op.sample_inputs("cpu", dtype, requires_grad=True))


def sweep(op: Any, dtype: torch.dtype, path: Path) -> tuple[int, BalanceReport]:
    expected = [gradients(op, sample) for sample in samples_of(op, dtype)]
    with tracer.Recorder(path) as recorder:
        found = [gradients(op, sample) for sample in samples_of(op, dtype)]
    assert recorder.failure == "", op.name
    for before, after in zip(expected, found, strict=True):
        assert (before is None) == (after is None), op.name
        if before is not None and after is not None:
            assert bits(strided(after)) == bits(strided(before)), op.name
    with tracer.load(path) as trace:
        report = check_balance(trace)
    return sum(e is not None for e in expected), report


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_every_operator_of_torch_balances(
    dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warnings.simplefilter("ignore")
    counts = {"operators": 0, "samples": 0, "fan_ins": 0, "buffers": 0, "unchecked": 0}
    wrong: list[str] = []
    worst = 0.0
    for op in operators(dtype):
        ran, report = sweep(op, dtype, tmp_path / "sweep.trace")
        counts["operators"] += ran > 0
        counts["samples"] += ran
        for name in ("fan_ins", "buffers", "unchecked"):
            counts[name] += getattr(report, name)
        worst = max(worst, report.worst)
        wrong += [f"{op.name}: {imbalance}" for imbalance in report.imbalances]
    with capsys.disabled():
        print(f"\n{dtype}: {counts}, worst error {worst:.1e}, unbalanced {len(wrong)}")
    assert not wrong, "\n".join(wrong[:20])
