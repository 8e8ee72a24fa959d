"""Every way to train on several ranks, in real processes: the ledgers say what was consumed."""

from __future__ import annotations

import pytest

from tests.ranks.table import Line, table, text


def wrong(lines: list[Line]) -> str:
    return text([line for line in lines if not line.is_right])


def test_on_two_ranks_every_ledger_balances_and_weighs_as_the_reference_does() -> None:
    lines = table([2])

    assert len(lines) >= 28
    assert all(line.is_right for line in lines), wrong(lines)


@pytest.mark.sweep
@pytest.mark.parametrize("world", [1, 4])
def test_on_one_and_four_ranks_too(world: int) -> None:
    lines = table([world])

    assert all(line.is_right for line in lines), wrong(lines)
