"""Claims of one cause become one finding; windows alike are looked at once; what a lr says."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

import tracer
from tests.checks.examined import SCRIPTS, examined
from tests.graph.sketch import blocks
from tracer.analysis.checks import run
from tracer.analysis.checks.case import Case
from tracer.analysis.checks.finding import Claim, Finding, Place
from tracer.analysis.checks.reduction import carries_division
from tracer.analysis.checks.registry import Check, check


def claims(*found: Claim) -> Check:
    return Check("a-check", "warning", lambda case: found, "mend it", "", "Section")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tracer.load(blocks(tmp_path / "b.trace")))


def joined(case: Case, *found: Claim) -> list[Finding]:
    return run._findings(case, claims(*found))


def test_claims_of_one_line_and_factor_are_one_finding(case: Case) -> None:
    source = next(iter(case.trace.sources))
    one = Claim("twice", source, [0], Fraction(2), steps=[3], looked=9)
    two = Claim("twice", source, [1, 0], Fraction(2), steps=[1, 4], looked=9)

    (found,) = joined(case, one, two)
    assert found.factor == 2
    assert found.parameters == (case.name(0), case.name(1))
    assert found.where == "in 3 of 9 windows, first at step 1"


def test_factors_of_one_line_are_told_as_a_range_by_the_worst(case: Case) -> None:
    source = next(iter(case.trace.sources))
    found = [Claim(f"x 1/{n}", source, [0], Fraction(1, n)) for n in (2, 7, 3, 5)]

    (finding,) = joined(case, *found)
    assert finding.factor is None
    assert finding.factors == (1 / 7, 1 / 2)
    assert finding.message == "x 1/7"


def test_where_factors_differ_the_windows_are_not_said_to_have_the_worst(case: Case) -> None:
    source = next(iter(case.trace.sources))
    two = Claim("x 2", source, [0], Fraction(2), steps=[1, 2], looked=3)
    four = Claim("x 4", source, [0], Fraction(4), steps=[3], looked=3)

    (found,) = joined(case, two, four)
    assert (found.message, found.where) == ("x 4", "at worst; in each of 3 windows")


def test_the_factor_of_most_windows_is_that_of_the_finding(case: Case) -> None:
    source = next(iter(case.trace.sources))
    usual = Claim("x 4", source, [0], Fraction(4), steps=[1, 2, 3])
    last = Claim("x 2", source, [0], Fraction(2), steps=[4])

    (finding,) = joined(case, usual, last)
    assert finding.factor == 4
    assert finding.factors == (2, 4)


def test_different_lines_and_severities_are_different_findings(case: Case) -> None:
    one, two = list(case.trace.sources)[:2]
    found = joined(
        case, Claim("m", one), Claim("m", two), Claim("m", one, severity="note"), Claim("m", None)
    )

    assert len(found) == 4


def test_a_second_check_of_one_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a second check called sum-reduction"):
        check("sum-reduction", severity="note", section="", remedy="")(lambda case: [])


@pytest.mark.parametrize(
    ("comment", "is_silent"),
    [
        ("x = 1  # tracer: ignore[a-check]", True),
        ("x = 1  # why; tracer: ignore[a-check]", False),
        ("x = 1  #tracer:ignore[ other , a-check ]", True),
        ("x = 1  # tracer: ignore[other]", False),
        ("x = 1  # tracer: ignore", True),
        ("x = 1  # ignore[a-check]", False),
    ],
)
def test_a_comment_silences_what_it_names(case: Case, comment: str, is_silent: bool) -> None:
    (found,) = joined(case, Claim("m", None))
    placed = Finding(**{**vars(found), "place": Place("a.py", 1, comment)})

    assert run.is_silenced(placed) is is_silent


@pytest.mark.parametrize(
    ("lr", "items", "carries"),
    [
        (0.001 / 64, 64, True),
        (0.1 / 8, 8, True),
        (0.1, 64, False),
        (3e-4, 32, False),
        (0.1, 1, False),
    ],
)
def test_a_learning_rate_that_was_divided_by_the_batch_is_known(
    lr: float, items: int, carries: bool
) -> None:
    assert carries_division(lr, items) is carries


def test_a_thousand_windows_alike_are_looked_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with tracer.Recorder(tmp_path / "run.trace"):
        for _ in range(200):
            model(torch.randn(4, 2)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    with tracer.load(tmp_path / "run.trace") as trace:
        case = Case(trace)
        report = run.examine([case])
        assert len(case.windows) == 200
        assert len(case.looked) == 2  # the first has no zero_grad before it
        (found,) = report.findings
        assert (found.check, found.where) == ("sum-reduction", "in each of 200 windows")


def test_all_windows_that_lose_calls_are_counted_though_few_are_looked_into() -> None:
    (found,) = examined(SCRIPTS / "lost-contributions" / "bug_8.py").findings

    assert found.message.startswith("Adam.zero_grad throws away 1 of the 2 backward calls")
    assert found.where == "in each of 8 windows"


def findings_of(path: Path) -> dict[str, Finding]:
    with tracer.load(path) as trace:
        return {finding.check: finding for finding in run.examine([Case(trace)]).findings}


@pytest.mark.parametrize(
    ("kind", "moves", "remedy"),
    [
        (
            torch.optim.SGD,
            "; an item moves the weights by lr 0.01 x 1",
            "average the loss, or divide the learning rate by the number of items",
        ),
        (
            torch.optim.Adam,
            "; an item counts 1 in what Adam sees",
            "average the loss; Adam needs no other learning rate for it",
        ),
    ],
)
def test_what_to_do_about_a_sum_depends_on_the_optimizer(
    tmp_path: Path, kind: type[torch.optim.SGD], moves: str, remedy: str
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = kind(model.parameters(), lr=0.01)
    with tracer.Recorder(tmp_path / "run.trace"):
        model(torch.randn(4, 2)).pow(2).sum().backward()
        optimizer.step()

    found = findings_of(tmp_path / "run.trace")["sum-reduction"]
    assert found.message.endswith(moves)
    assert found.remedy == remedy


def test_optimizers_of_one_line_are_counted_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [nn.ModuleList([nn.Linear(2, 1), *[nn.Linear(2, 1)] * unused]) for unused in (1, 2)]
    optimizers = [
        torch.optim.SGD([*models[0].parameters()], lr=0.1),
        torch.optim.Adam([*models[1].parameters(), nn.Parameter(torch.ones(1))], lr=0.1),
    ]
    with tracer.Recorder(tmp_path / "run.trace"):
        for model, optimizer in zip(models, optimizers, strict=True):
            model[0](torch.randn(4, 2)).mean().backward()
            optimizer.step()

    found = findings_of(tmp_path / "run.trace")["no-gradient"]
    assert found.message == "5 parameters of SGD and Adam never received a gradient, in 2 steps"
    assert len(found.parameters) == 5
