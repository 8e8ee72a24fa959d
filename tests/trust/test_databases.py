"""PyTorch's own operator, module and optimizer samples: same bits, and the books balance.

The whole of them is long (`pytest -m sweep`, or `python -m tests.trust.figures` for the counts
alone); a part of each runs always.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.trust.databases import Entry, Tally, judge, modules, operators, optimizers

pytest.importorskip("expecttest", reason="torch's databases need expecttest")

Database = Callable[[torch.dtype], Iterator[Entry]]

WHOLE: list[tuple[Database, torch.dtype, int]] = [
    (operators, torch.float32, 530),
    (operators, torch.complex64, 320),
    (operators, torch.float64, 530),
    (operators, torch.bfloat16, 400),
    (modules, torch.float32, 100),
    (modules, torch.float64, 100),
    (optimizers, torch.float32, 150),
    (optimizers, torch.complex64, 80),
]
"""Each database and dtype, and how many entries there are at least: else it has become blind."""

EVERY = {operators: 37, modules: 14, optimizers: 23}
"""One entry in so many is run always."""


def swept(entries: Iterator[Entry], what: str, path: Path) -> Tally:
    tally = Tally(what)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in entries:
            judge(entry, path, tally)
    return tally


@pytest.mark.sweep
@pytest.mark.parametrize(("database", "dtype", "least"), WHOLE)
def test_a_whole_database_is_the_same_bits_and_balances(
    database: Database, dtype: torch.dtype, least: int, tmp_path: Path
) -> None:
    tally = swept(database(dtype), f"{database.__name__} {dtype}", tmp_path / "sweep.trace")

    print(tally)
    assert not tally.problems, "\n".join(tally.problems[:20])
    assert tally.entries >= least


@pytest.mark.parametrize("database", EVERY, ids=lambda database: database.__name__)
def test_a_part_of_a_database_is_the_same_bits_and_balances(
    database: Database, tmp_path: Path
) -> None:
    entries = itertools.islice(database(torch.float32), 0, None, EVERY[database])

    tally = swept(entries, database.__name__, tmp_path / "part.trace")

    assert not tally.problems, "\n".join(tally.problems[:20])
    assert tally.samples > 5
