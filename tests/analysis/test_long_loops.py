"""A loop of a thousand factors: told as one number, in range, and in time that grows with it."""

from __future__ import annotations

import math
from fractions import Fraction

from tracer.analysis.exact import product, said
from tracer.analysis.strand import FURTHER, MOST_FACTORS, Factor, Strand


def scaled(times: int, by: Fraction) -> Strand:
    strand = Strand(Fraction(1), Fraction(1), live=1)
    for line in range(times):
        strand = strand.scaled(Factor("scale", by, "", line))
    return strand


def test_factors_beyond_those_that_anybody_reads_are_one() -> None:
    strand = scaled(1000, Fraction(1, 2))

    assert len(strand.factors) == MOST_FACTORS + 1
    last = strand.factors[-1]
    assert (last.kind, last.words, last.source) == ("scale", FURTHER, None)
    assert last.value == 0.5 ** (1000 - MOST_FACTORS)
    assert strand.weight == strand.now == 0.5**1000


def test_few_factors_are_told_one_by_one() -> None:
    strand = scaled(100, Fraction(1, 2))

    assert [factor.source for factor in strand.factors] == list(range(100))
    assert strand.weight == Fraction(1, 2**100)


def test_a_product_that_no_double_holds_is_infinite() -> None:
    assert product([Fraction(2)] * 1100) == math.inf
    assert product([Fraction(-2)] * 1101) == -math.inf
    assert product([Fraction(1, 2)] * 1100) == 0.0
    assert said(product([Fraction(2)] * 1100)) == "inf"


def test_a_product_that_a_person_would_write_stays_a_fraction() -> None:
    assert product([Fraction(3, 4)] * 8) == Fraction(6561, 65536)
