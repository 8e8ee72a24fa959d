"""Numbers are written as a person would write them."""

from __future__ import annotations

import math

import pytest

from tracer.views import labels


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.125, "1/8"),
        (0.12500001, "1/8"),
        (1 / 65536, "1/65536"),
        (1 / 3, "1/3"),
        (1 / 30, "1/30"),
        (2 / 3, "2/3"),
        (0.05, "0.05"),
        (0.5, "1/2"),
        (-0.25, "-1/4"),
        (0.31622776, "0.3162"),
        (4.0, "4"),
        (65536.0, "65536"),
        (2.5, "2.5"),
        (-1.0, "-1"),
        (0.0, "0"),
        (1e-9, "1e-09"),
        (math.inf, "inf"),
        (math.nan, "NaN"),
        (None, "?"),
    ],
)
def test_factors_are_exact(x: float | None, text: str) -> None:
    assert labels.factor(x) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.41834567, "0.4183"),
        (3.0000001, "3"),
        (1234567.0, "1,234,567"),
        (1430.4, "1,430"),
        (12345.678, "12,350"),
        (1.5e-5, "1.5e-05"),
        (2e9, "2e+09"),
        (0.0, "0"),
        (-0.5, "-0.5"),
        (-math.inf, "-inf"),
        (complex(1, -2), "1-2i"),
        (None, "?"),
    ],
)
def test_numbers_have_four_digits_and_no_dust(x: float | complex | None, text: str) -> None:
    assert labels.number(x) == text


def test_a_range_of_equal_numbers_is_one_number() -> None:
    assert labels.between((0.5, 0.50001)) == "0.5"
    assert labels.between((0.25, 0.5)) == "0.25 … 0.5"
    assert labels.between(None) == "?"


def test_shapes_stand_in_brackets() -> None:
    assert labels.shape((8, 3, 3, 3)) == "[8×3×3×3]"
    assert labels.shape((8,)) == "[8]"
    assert labels.shape(()) == "scalar"


def test_values_of_small_tensors_are_listed() -> None:
    assert labels.value((2.5,)) == "2.5"
    assert labels.value((1.0, 2.0, 3.0, 4.0, 5.0)) == "[1, 2, 3, 4, …]"
    assert labels.value(None) == ""


def test_a_line_of_the_script_needs_no_file() -> None:
    assert labels.short_line("/home/me/train.py", 52) == "train.py:52"
    assert labels.short_line("C:\\me\\train.py", 52) == "train.py:52"
    assert labels.short_line("train.py", 52, script="train.py") == "line 52"


def test_operators_lose_what_all_have() -> None:
    assert labels.operator("MeanBackward0") == "Mean"
    assert labels.operator("NllLoss2DBackward0") == "NllLoss2D"
    assert labels.operator("torch::autograd::CopyBackwards") == "Copy"
    assert labels.operator("FocalBackward") == "Focal"
    assert labels.operator("AccumulateGrad") == "AccumulateGrad"
    assert labels.operator("Backward") == "Backward"


def test_long_names_lose_their_middle() -> None:
    assert labels.clipped("a" * 100, 10) == "aaaaa…aaaa"
    assert labels.clipped("short", 10) == "short"
    assert labels.clipped("a\nb\x00", 10) == "a\ufffdb\ufffd"


def test_plurals() -> None:
    assert labels.plural(1, "call") == "1 call"
    assert labels.plural(1024, "call") == "1,024 calls"


def test_many_chunks_that_are_alike_are_counted() -> None:
    assert labels.chunks((2, 2)) == "2 + 2"
    assert labels.chunks((3, 3, 2)) == "3 + 3 + 2"
    assert labels.chunks((2,) * 7 + (1,)) == "7 × 2 + 1"
