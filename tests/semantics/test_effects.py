"""What an effect says of itself: factor, count, law and words."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tracer.semantics import (
    Averages,
    Broadcasts,
    Contracts,
    Elementwise,
    LossReduction,
    Moves,
    Normalises,
    Opaque,
    Reduces,
    Scales,
    Sums,
)
from tracer.semantics.effects import exact, reciprocal


def test_a_mean_divides_and_keeps_the_sum():
    effect = Averages(over=8)

    assert effect.factor == Fraction(1, 8)
    assert effect.count == 8
    assert effect.sum_factor == 1
    assert effect.summed == 1


def test_a_mean_of_nothing_has_no_factor():
    assert Averages(over=0).factor is None


def test_the_backward_of_a_sum_multiplies_the_sum_by_its_items():
    effect = Broadcasts(over=8)

    assert effect.factor == 1
    assert effect.sum_factor == 8


def test_the_backward_of_a_broadcast_adds_and_keeps_the_sum():
    effect = Sums(over=8)

    assert (effect.factor, effect.summed, effect.sum_factor) == (1, 8, 1)


def test_a_scaled_broadcast_says_both():
    effect = Scales(by=Fraction(1, 2), then_sums=3)

    assert effect.factor == Fraction(1, 2)
    assert effect.summed == 3
    assert effect.sum_factor == Fraction(1, 2)
    assert effect.words == "x 1/2, sum of 3"


def test_outputs_that_share_claim_nothing_each():
    effect = Moves(claims="together")

    assert effect.sum_factor is None
    assert effect.own_law == 1


def test_what_is_normalised_adds_up_to_nothing():
    assert Normalises().sum_factor == 0


def test_an_elementwise_derivative_claims_no_factor_and_no_law():
    assert Elementwise().factor is None
    assert Elementwise().sum_factor is None


def test_an_unknown_effect_does_not_say_that_it_sums_one():
    assert Opaque("a reason").summed is None


def test_a_mean_loss_divides_by_its_denominator():
    assert LossReduction("mean", over=8, items=8).factor == Fraction(1, 8)
    assert LossReduction("mean", over=None, items=8).factor is None


def test_a_summed_loss_does_not_divide():
    effect = LossReduction("sum", over=8, items=8)

    assert (effect.factor, effect.count, effect.words) == (1, 8, "sum of 8")


def test_a_weighted_mean_has_a_denominator_that_is_no_count():
    effect = LossReduction("weighted-mean", over=Fraction(5, 2), items=8)

    assert effect.factor == Fraction(2, 5)
    assert effect.count == 8
    assert effect.words == "weighted mean of 5/2"


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Averages(over=8), "mean of 8"),
        (Sums(over=8), "sum of 8"),
        (Broadcasts(over=8), "sum over 8 items"),
        (Scales(by=Fraction(1, 8)), "x 1/8"),
        (Scales(by=Fraction(65536)), "x 65536"),
        (Scales(by=0.1), "x 0.1"),
        (Moves(), "moves"),
        (Elementwise(then_sums=4), "elementwise, sum of 4"),
        (Contracts(over=16), "contracts 16"),
        (Contracts(), "contracts"),
        (Reduces(over=2), "sum of 2 replicas"),
        (Reduces(across="ranks"), "sum of ranks"),
        (LossReduction("mean", over=8, items=8), "mean of 8"),
        (LossReduction("none", over=1, items=8), "loss per item"),
        (LossReduction("mean"), "mean of ?"),
    ],
)
def test_words(effect, words):
    assert effect.words == words


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (8, Fraction(8)),
        (0.5, Fraction(1, 2)),
        (65536.0, Fraction(65536)),
        (2**-20, Fraction(1, 2**20)),
    ],
)
def test_plain_numbers_are_kept_as_fractions(value, kept):
    assert exact(value) == kept
    assert isinstance(exact(value), Fraction)


@pytest.mark.parametrize("value", [0.1, float("inf"), 1e-9])
def test_other_numbers_stay_floats(value):
    assert exact(value) == value
    assert isinstance(exact(value), float)


def test_a_reciprocal_is_a_fraction_where_its_number_is():
    assert reciprocal(3) == Fraction(1, 3)
    assert reciprocal(0.1) == pytest.approx(10.0)
    assert reciprocal(0) is None
