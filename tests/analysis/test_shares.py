"""Shares: how much of a gradient comes from each call, and from each term of the loss."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tracer
from tracer.analysis.explain import Explainer, Explanation
from tracer.analysis.shares import _Part, _projected
from tracer.cli import main
from tracer.events import ROW_WIDTH, Measurement
from tracer.record.measure import Shelf

LARGE = (40, 3)
"""More elements than are kept whole."""


def record(script: Callable[[], object], path: Path, terms: bool = False) -> Path:
    torch.manual_seed(0)
    with tracer.Recorder(path / "t.trace", terms=terms):
        script()
    return path / "t.trace"


def explained(path: Path) -> Explanation:
    with tracer.load(path) as trace:
        return Explainer(trace).parameter("w")[-1]


def calls(count: int, parts: list[Tensor]) -> Callable[[], None]:
    """That many backward calls; what each of them adds is left in `parts`."""

    def script() -> None:
        w = nn.Parameter(torch.randn(LARGE))
        optimizer = torch.optim.SGD([w], lr=0.1)
        for _ in range(count):
            before = torch.zeros(LARGE) if w.grad is None else w.grad.clone()
            F.mse_loss(torch.randn(8, 40) @ w, torch.randn(8, 3)).backward()
            parts.append(w.grad - before)
        w.grad /= count
        optimizer.step()

    return script


def projections(parts: list[Tensor]) -> list[float]:
    whole = sum(parts, torch.zeros_like(parts[0])).flatten().double()
    return [float(part.flatten().double() @ whole / (whole @ whole)) for part in parts]


def test_of_two_calls_norms_tell_the_shares_exactly(tmp_path: Path) -> None:
    parts: list[Tensor] = []
    found = explained(record(calls(2, parts), tmp_path))

    assert [share.value for share in found.shares] == pytest.approx(projections(parts), abs=1e-5)
    assert all(share.is_exact for share in found.shares)


def test_of_three_calls_they_are_rough_and_say_so(tmp_path: Path) -> None:
    parts: list[Tensor] = []
    found = explained(record(calls(3, parts), tmp_path))

    assert sum(share.value for share in found.shares) == pytest.approx(1, abs=1e-4)
    for share, expected in zip(found.shares, projections(parts), strict=True):
        assert not share.is_exact
        assert abs(share.value - expected) < 4 * share.error


def test_errors_are_standard_deviations() -> None:
    """Of 200 pairs of random tensors two thirds lie within one of them."""
    generator = torch.Generator().manual_seed(0)
    within = 0
    for _ in range(200):
        a, b = torch.randn(2, 300, generator=generator)
        share = _projected(_Part(measured(a), 1.0), measured(a + b))
        (expected, _) = projections([a, b])
        within += abs(share.value - expected) < share.error
    assert 0.55 < within / 200 < 0.8


def measured(tensor: Tensor) -> Measurement:
    """As a trace keeps it."""
    shelf = Shelf()
    shelf.add(tensor)
    numbers = struct.unpack(f"<{ROW_WIDTH}f", shelf.fetch().measurements)
    return Measurement(
        tensor.numel(), numbers[0], numbers[2], numbers[3], int(numbers[4]), numbers[5:]
    )


def losses(w: Tensor, x: Tensor) -> list[Tensor]:
    answers = torch.tanh(x @ w)
    return [answers.square().mean(), 0.2 * answers.abs().sum(), answers.exp().mean()]


def several_terms() -> None:
    w = nn.Parameter(torch.randn(LARGE))
    optimizer = torch.optim.SGD([w], lr=0.1)
    answers = torch.tanh(torch.randn(8, 40) @ w)
    loss = answers.square().mean()
    loss = loss + 0.2 * answers.abs().sum()
    loss = loss - answers.exp().mean()
    loss.backward()
    optimizer.step()


def test_shares_of_terms_are_those_of_their_own_gradients(tmp_path: Path) -> None:
    found = explained(record(several_terms, tmp_path, terms=True))

    torch.manual_seed(0)
    w = torch.randn(LARGE, requires_grad=True)
    terms = losses(w, torch.randn(8, 40))
    terms[2] = -terms[2]
    parts = [torch.autograd.grad(term, w, retain_graph=True)[0] for term in terms]
    told = [term.share.value for term in found.terms.terms]
    assert told == pytest.approx(projections(parts), abs=1e-5)
    assert sum(told) == pytest.approx(1, abs=1e-6)
    norms = [term.norm for term in found.terms.terms]
    assert norms == pytest.approx([float(part.norm()) for part in parts], rel=1e-5)


def test_each_term_stands_beside_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(several_terms, tmp_path, terms=True)

    assert main(["explain", str(path), "w", "--terms"]) == 0
    text = capsys.readouterr().out
    block = text[text.index("terms of the loss") :].splitlines()[1:4]
    lines = ("answers.square().mean()", "0.2 * answers.abs().sum()", "answers.exp().mean()")
    for row, line in zip(block, lines, strict=True):
        assert line in row


def test_the_table_of_parameters_has_a_column_of_terms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(several_terms, tmp_path, terms=True)

    assert main(["explain", str(path), "--terms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("w ") and "%" in line]
    assert row.count(" / ") == 2
    assert lines[-1].startswith("  term 3  loss = loss - answers.exp().mean()")


def test_without_the_recording_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(several_terms, tmp_path)

    assert main(["explain", str(path), "w", "--terms"]) == 0
    assert "recorded without `trace --terms`" in capsys.readouterr().out


def test_a_call_that_was_left_out_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hooked() -> None:
        w = nn.Parameter(torch.randn(LARGE))
        w.register_hook(lambda gradient: gradient * 2)
        answers = torch.randn(8, 40) @ w
        (answers.square().mean() + answers.abs().mean()).backward()

    path = record(hooked, tmp_path, terms=True)

    assert main(["explain", str(path), "w", "--terms"]) == 0
    assert "left out: hooks of the script would run again" in capsys.readouterr().out


def test_of_several_calls_terms_share_what_the_call_has(tmp_path: Path) -> None:
    def script() -> None:
        w = nn.Parameter(torch.randn(LARGE))
        optimizer = torch.optim.SGD([w], lr=0.1)
        for _ in range(2):
            answers = torch.tanh(torch.randn(8, 40) @ w)
            (answers.square().mean() + 0.2 * answers.abs().sum()).backward()
        optimizer.step()

    found = explained(record(script, tmp_path, terms=True))

    assert len(found.terms.terms) == 2
    assert sum(term.share.value for term in found.terms.terms) == pytest.approx(1, abs=1e-5)


def test_branches_that_meet_in_a_node_have_shares(tmp_path: Path) -> None:
    kept: list[Tensor] = []

    def script() -> None:
        w = nn.Parameter(torch.randn(LARGE))
        x = torch.randn(8, 40)
        first, second = (x @ w).square().mean(), (x.flip(1) @ w).abs().sum()
        kept[:] = [torch.autograd.grad(one, w, retain_graph=True)[0] for one in (first, second)]
        (first + second).backward()

    found = explained(record(script, tmp_path))
    link = found.chain[-1]

    assert link.fan_in == 2
    told = sorted(share.value for share in link.shares)
    assert told == pytest.approx(sorted(projections(kept)), abs=1e-5)
    assert all(share.is_exact for share in link.shares)


def test_halves_that_are_put_together_do_not_meet(tmp_path: Path) -> None:
    def script() -> None:
        w = nn.Parameter(torch.randn(2, 20))
        first, second = w.unbind(0)
        (2 * first.square() + 3 * second.exp()).sum().backward()

    found = explained(record(script, tmp_path))

    assert "UnbindBackward0" in [link.name for link in found.chain]
    assert {link.fan_in for link in found.chain} == {1}
