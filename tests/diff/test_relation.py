"""Two gradients compared: factors, cosines, rounding."""

from __future__ import annotations

import math
from array import array
from fractions import Fraction

import pytest
import torch

from tracer.analysis.diff.relation import Relation, clusters_of, joint_cosine, related
from tracer.events import ROW_WIDTH, Measurement
from tracer.record.measure import Shelf

FLOAT32 = 2e-5


def of(tensor: torch.Tensor) -> Measurement:
    """The tensor as a trace keeps it."""
    shelf = Shelf()
    shelf.add(tensor)
    total, _, norm, largest, bad, *fingerprint = array("f", shelf.fetch().measurements)
    assert len(fingerprint) == ROW_WIDTH - 5
    values = tuple(tensor.flatten().tolist()) if tensor.numel() <= 16 else None
    return Measurement(tensor.numel(), total, norm, largest, int(bad), tuple(fingerprint), values)


def random(seed: int, count: int = 500) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at_cosine(c: float, seed: int = 0, count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors with this cosine, exactly."""
    u, v = random(2 * seed + 100, count), random(2 * seed + 101, count)
    u = u / u.norm()
    v = v - (v @ u) * u
    return u, c * u + math.sqrt(1 - c * c) * v / v.norm()


@pytest.mark.parametrize("factor", [4.0, 0.125, 1 / 3, -2.0, 65536.0, 3 / 4])
@pytest.mark.parametrize("count", [3, 500])
def test_a_multiple_is_recognised_with_its_exact_factor(factor: float, count: int) -> None:
    a = random(1, count)

    found = related(of(a), of(factor * a), FLOAT32)

    assert found.kind == "multiple"
    assert found.factor == Fraction(factor).limit_denominator(100)


def test_a_factor_that_is_no_simple_fraction_stays_a_number() -> None:
    found = related(of(random(1)), of(0.31622776 * random(1)), FLOAT32)

    assert isinstance(found.factor, float)
    assert found.factor == pytest.approx(0.31622776, rel=1e-6)


def test_rounding_of_float32_is_no_difference_and_more_than_that_is_near() -> None:
    a, other = random(1), random(2)

    assert related(of(a), of(a + 1e-6 * other), FLOAT32).kind == "multiple"
    assert related(of(a), of(a + 1e-3 * other), FLOAT32).kind == "near"
    assert related(of(a), of(a + 0.3 * other), FLOAT32).kind == "different"


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (torch.zeros(3), torch.zeros(3), "zero"),
        (torch.zeros(3), torch.ones(3), "only-b"),
        (torch.ones(3), torch.zeros(3), "only-a"),
        (torch.ones(3), torch.tensor([1.0, math.nan, 1.0]), "nonfinite-b"),
        (torch.full((3,), math.inf), torch.ones(3), "nonfinite-a"),
        (torch.full((3,), math.inf), torch.tensor([1.0, math.nan, 1.0]), "nonfinite"),
        (torch.ones(3), torch.ones(4), "unknown"),
    ],
)
def test_what_has_no_factor(a: torch.Tensor, b: torch.Tensor, kind: str) -> None:
    assert related(of(a), of(b), FLOAT32).kind == kind


def test_what_is_nothing_but_rounding_is_not_compared() -> None:
    a, b = 1e-8 * random(1), 1e-8 * random(2)

    assert related(of(a), of(b), FLOAT32).kind == "different"
    assert related(of(a), of(b), FLOAT32, noise=(1e-6, 1e-6)).kind == "rounding"


def test_what_is_rounding_on_one_side_only_has_no_factor() -> None:
    a, b = 1e-8 * random(1), random(2)

    assert related(of(a), of(b), FLOAT32, noise=(1e-6, 1e-6)).kind == "only-b"
    assert related(of(b), of(a), FLOAT32, noise=(1e-6, 1e-6)).kind == "only-a"
    # Where both are as small, the one is rounding as much as the other.
    assert related(of(a), of(2 * a), FLOAT32, noise=(1e-6, 1e-9)).kind == "rounding"


def test_the_cosine_of_few_values_is_exact() -> None:
    a, b = at_cosine(0.6, count=10)

    cosine = related(of(a), of(b), FLOAT32).cosine

    assert cosine is not None
    assert cosine.value == pytest.approx(0.6, abs=1e-9)
    assert cosine.error == 0


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.5, 0.9, 0.999])
def test_the_cosine_from_projections_lies_within_its_error(c: float) -> None:
    found = [related(*map(of, at_cosine(c, seed)), FLOAT32).cosine for seed in range(60)]
    pulls = [(one.value - c) / one.error for one in found if one is not None]

    assert len(pulls) == 60
    assert sum(abs(pull) < 2 for pull in pulls) >= 45
    assert abs(sum(one.value for one in found if one) / 60 - c) < 3 * (1 - c * c) / math.sqrt(480)


def test_many_gradients_together_have_a_surer_cosine() -> None:
    relations = [related(*map(of, at_cosine(0.5, seed)), FLOAT32) for seed in range(40)]

    cosine = joint_cosine(relations)

    assert cosine is not None
    assert cosine.error < 0.06
    assert abs(cosine.value - 0.5) < 3 * cosine.error


def test_parameters_with_one_factor_are_one_group_and_the_largest_comes_first() -> None:
    relations = [
        related(of(random(seed)), of(factor * random(seed)), FLOAT32)
        for seed, factor in enumerate([4.0, 4.0000004, 0.5, 3.9999995])
    ]

    first, second = clusters_of(relations)

    assert (first.factor, first.members) == (4, (0, 1, 3))
    assert (second.factor, second.members) == (Fraction(1, 2), (2,))


def test_what_is_no_multiple_is_in_no_group() -> None:
    assert clusters_of([Relation("different", 2.0), Relation("zero")]) == []
