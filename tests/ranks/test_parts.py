"""Fingerprints of parts add up to that of the whole; the place of a block of a tensor."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
import torch

from tracer.events import ROW_WIDTH
from tracer.record.measure import Shelf
from tracer.record.shards import Place, _place_of_block, within


def rows_of(shelf: Shelf) -> list[tuple[float, ...]]:
    numbers = shelf.fetch().measurements
    return list(struct.iter_unpack(f"<{ROW_WIDTH}f", numbers))


def fingerprint(whole: torch.Tensor, *parts: tuple[torch.Tensor, Place]) -> tuple[list, list]:
    shelf = Shelf()
    shelf.add(whole)
    for part, place in parts:
        shelf.add_part(part, place)
    first, *others = rows_of(shelf)
    return list(first[5:]), [
        sum(column) for column in zip(*(row[5:] for row in others), strict=True)
    ]


@pytest.mark.parametrize("elements", [10, 5000, 40_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_consecutive_parts_add_up_to_the_whole(elements: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    whole = torch.randn(elements, dtype=dtype)
    cuts = [0, elements // 7, elements // 3, elements // 3, elements]
    parts = [(whole[a:b].clone(), Place(a, b - a, b - a)) for a, b in itertools.pairwise(cuts)]

    expected, found = fingerprint(whole, *parts)

    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_blocks_of_columns_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    whole = torch.randn(300, 500)
    parts = [
        (whole[:, a:b].contiguous(), Place(a, b - a, 500))
        for a, b in [(0, 100), (100, 499), (499, 500)]
    ]

    expected, found = fingerprint(whole, *parts)

    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_part_keeps_its_own_sum_norm_and_values() -> None:
    shelf = Shelf()

    shelf.add_part(torch.tensor([3.0, 4.0]), Place(5, 2, 2))

    measured = shelf.fetch()
    assert struct.unpack("<13f", measured.measurements)[:5] == (7.0, 0.0, 5.0, 4.0, 0.0)
    assert struct.unpack("<2f", measured.values) == (3.0, 4.0)


@pytest.mark.parametrize("whole", [(5,), (4, 3), (3, 4, 5), ()])
def test_the_place_of_every_block_lists_its_elements(whole: tuple[int, ...]) -> None:
    numbers = torch.arange(math.prod(whole)).reshape(whole)
    ranges = [[(a, b) for a in range(n) for b in range(a + 1, n + 1)] for n in whole]
    places = 0
    for block in itertools.product(*ranges):
        sizes = tuple(b - a for a, b in block)
        place = _place_of_block(whole, sizes, tuple(a for a, _ in block))
        listed = numbers[tuple(slice(a, b) for a, b in block)].reshape(-1).tolist()
        if place is None:  # cut along three axes: no equal distances
            assert len([1 for size, n in zip(sizes, whole, strict=True) if size != n]) >= 2
            continue
        places += 1
        start, run, stride = place
        assert [start + j // run * stride + j % run for j in range(len(listed))] == listed
    assert places >= math.prod(whole)


def test_a_part_of_a_part_lies_in_the_whole() -> None:
    columns = Place(2, 2, 4)  # columns 2 and 3 of (5, 4)

    assert within(None, 3, 4) == Place(3, 4, 4)
    assert within(columns, 2, 4) == Place(6, 2, 4)  # rows 1 and 2 of it
    assert within(columns, 3, 1) == Place(7, 1, 1)
    assert within(columns, 1, 2) is None  # the end of one run and the beginning of the next
