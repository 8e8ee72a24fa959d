"""Every law against PyTorch's own operator samples."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.semantics.observe import Observation, broken_laws, checks_of, observe
from tracer.semantics import Opaque, effects_of

torch = pytest.importorskip("torch")

SAMPLES = 40
"""At most so many samples of an operator and a dtype: some have hundreds that differ little."""


@dataclass
class Tally:
    """What the sweep has seen."""

    operators: int = 0
    samples: int = 0
    nodes: int = 0
    names: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    checked: set[str] = field(default_factory=set)
    opaque: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, operator: str, seen: Sequence[Observation]) -> None:
        self.samples += 1
        for one in seen:
            self._add_node(operator, one)

    def _add_node(self, operator: str, one: Observation) -> None:
        name = one.facts.name
        self.nodes += 1
        self.names[name] += 1
        effects = effects_of(one.facts)
        self.opaque.update(f"{name}: {e.reason}" for e in effects if isinstance(e, Opaque))
        for check, _ in checks_of(one):
            self.checks[check] += 1
            self.checked.add(name)
        for problem in broken_laws(one):
            self.broken.setdefault(name, f"{name} in {operator}: {problem}\n  {one.facts}")


def tensors_in(value: Any) -> Iterator[Any]:
    """All tensors of a nest of tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def outputs_of(operator: Any, sample: Any) -> list[Any]:
    result = operator(sample.input, *sample.args, **sample.kwargs)
    found = (one for one in tensors_in(result) if one.requires_grad)
    return [one for one in found if one.layout is torch.strided and one.numel()]


def weighted(roots: Sequence[Any]) -> list[Any]:
    return [torch.rand_like(root) + 0.1 for root in roots]


def sweep_sample(tally: Tally, operator: Any, sample: Any) -> None:
    """One backward call, and one through the graph of that one."""
    roots = outputs_of(operator, sample)
    if not roots:
        return
    leaves = [t for t in tensors_in((sample.input, sample.args, sample.kwargs)) if t.requires_grad]
    tally.add(operator.name, observe(roots, weighted(roots)))
    tally.add(operator.name, observe(roots, [torch.ones_like(root) for root in roots]))
    again = outputs_of(operator, sample)
    starts = [one.requires_grad_() for one in weighted(again)]
    firsts = torch.autograd.grad(again, leaves, starts, create_graph=True, allow_unused=True)
    seconds = [one for one in firsts if one is not None and one.requires_grad]
    seconds = [one for one in seconds if one.layout is torch.strided and one.numel()]
    if seconds:
        tally.add(operator.name, observe(seconds, weighted(seconds)))


def sweep_operator(tally: Tally, operator: Any) -> None:
    supported = operator.supported_backward_dtypes("cpu")
    tally.operators += 1
    for dtype in (torch.float64, torch.complex128):
        if dtype not in supported:
            continue
        samples = operator.sample_inputs("cpu", dtype, requires_grad=True)
        for _, sample in zip(range(SAMPLES), samples, strict=False):
            try:
                sweep_sample(tally, operator, sample)
            except (RuntimeError, TypeError, NotImplementedError, ValueError) as failure:
                tally.failures[f"{operator.name}: {str(failure)[:90]}"] += 1


@pytest.mark.sweep
def test_every_law_holds_for_the_samples_of_pytorch():
    invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    tally = Tally()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in invocations.op_db:
            sweep_operator(tally, operator)
    print(report(tally))

    assert not tally.broken, "\n".join(tally.broken.values())
    assert len(tally.checked) > 150  # else the sweep has become blind


def report(tally: Tally) -> str:
    lines = [
        f"{tally.operators} operators, {tally.samples} samples, {tally.nodes} nodes "
        f"of {len(tally.names)} kinds; {sum(tally.failures.values())} samples not run",
        f"a law was checked for {len(tally.checked)} kinds: {dict(tally.checks)}",
        *(f"opaque {count:6d} {what}" for what, count in tally.opaque.most_common()),
        *(f"not run {count:5d} {what}" for what, count in tally.failures.most_common()),
    ]
    return "\n".join(lines)
