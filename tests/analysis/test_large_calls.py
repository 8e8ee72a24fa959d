"""A large call is followed by numbers: what is said of it is what a look at each node says."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tracer
from tracer import columns
from tracer.analysis import flow, runs
from tracer.analysis.explain import Explainer
from tracer.analysis.strand import MOST_FACTORS, Factor, Scaling, Strand
from tracer.tracefile import load
from tracer.views.explain import explanation_text, overview_text
from tracer.views.explain_json import explanation_document
from tracer.views.json_text import json_text
from tracer.views.terminal import Ink

PLAIN = Ink(False)


def chain(*factors: float, times: int = 40, elements: int = 8) -> Callable[[], object]:
    """Multiplied by these in turn, again and again."""

    def script() -> None:
        w = torch.ones(elements, requires_grad=True)
        x = w
        for _ in range(times):
            for by in factors:
                x = x * by
        x.sum().backward()

    return script


def hooked() -> None:
    """A hook in the middle of a chain doubles what comes."""
    w = torch.ones(4, requires_grad=True)
    x = w
    for place in range(60):
        x = x * 0.5
        if place == 30:
            x.register_hook(lambda gradient: 2 * gradient)
    x.mean().backward()


def shifted() -> None:
    """Multiplications and additions in turn, which end in a shared leaf."""
    w = torch.ones(4, requires_grad=True)
    x = w
    for _ in range(40):
        x = (x * 1.01 + 0.5) - w
    x.sum().backward()


def overflowing() -> None:
    """From some place on what is measured is not finite."""
    w = torch.ones(4, requires_grad=True)
    x = w
    for _ in range(60):
        x = x * 1e3
    x.sum().backward()


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


def unrolled() -> None:
    """A cell in a loop, two losses, a hook on one of its parameters, a function of the user's."""
    torch.manual_seed(0)
    cell, out = nn.LSTMCell(3, 4), nn.Linear(4, 2)
    cell.bias_hh.register_hook(lambda gradient: 3 * gradient)
    optimizer = torch.optim.SGD([*cell.parameters(), *out.parameters()], lr=0.1)
    h = c = torch.zeros(5, 4)
    answers = []
    for _ in range(6):
        h, c = cell(torch.randn(5, 3), (h, c))
        answers.append(out(Scaled.apply(h)))
    F.cross_entropy(torch.cat(answers), torch.zeros(30, dtype=torch.long)).backward()
    F.mse_loss(out(torch.randn(5, 4)), torch.zeros(5, 2)).backward()
    optimizer.step()


SCRIPTS: dict[str, Callable[[], object]] = {
    "times 1": chain(1.0),
    "times 1.5": chain(1.5),
    "longer than its factors are told": chain(0.9, 1.1, times=200),
    "a batch of one": chain(0.9, elements=1),
    "a hook": hooked,
    "additions between": shifted,
    "overflow": overflowing,
    "a cell in a loop": unrolled,
}


def told(path: Path) -> list[str]:
    """All that `explain` says, of the run and of every parameter."""
    with load(path) as trace:
        explainer = Explainer(trace)
        said = [overview_text(explainer.overview(), trace, PLAIN)]
        for name in explainer.books.by_name:
            found = explainer.parameter(name)
            said.append(explanation_text(found, trace, PLAIN))
            said.append(json_text(explanation_document(found, trace)))
    return said


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_call_read_as_columns_is_explained_as_any_other(
    script: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.trace"
    with tracer.Recorder(path):
        script()
    # Beyond a number of nodes only those with hooks are compared with what was sent to them.
    monkeypatch.setattr(flow, "MOST_CHECKED", 0)
    before = told(path)
    monkeypatch.setattr(columns, "LARGE", 0)

    assert told(path) == before


def test_a_chain_is_followed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[runs.Run | None] = []
    down = runs.Runs.down
    monkeypatch.setattr(columns, "LARGE", 0)
    monkeypatch.setattr(runs.Runs, "down", lambda *all: found.append(down(*all)) or found[-1])
    path = tmp_path / "run.trace"
    with tracer.Recorder(path):
        chain(1.5, times=100)()
    told(path)

    assert [run.length for run in found if run is not None] == [95]


@pytest.mark.parametrize(
    ("strand", "by"),
    [
        (Strand(Fraction(1), Fraction(1), 8), (Fraction(1, 2), 0.3, Fraction(3))),
        (Strand(Fraction(1), Fraction(1), 8), (Fraction(1),)),
        (Strand(0.25, 0.5, 8, since=(Factor("measured", 2.0, "exp"),)), (1.01, Fraction(2))),
        (Strand(None, Fraction(1), 8), (Fraction(1, 2),)),
    ],
)
def test_a_strand_scaled_often_is_the_one_scaled_each_time(
    strand: Strand, by: tuple[Fraction | float, ...]
) -> None:
    expected, scaling = strand, Scaling(strand)
    for place in range(MOST_FACTORS + 500):
        factor = Factor("scale", by[place % len(by)], f"x {place}", place)
        expected = expected.scaled(factor)
        scaling.by(factor)

    assert scaling.strand == expected
