"""Every way to train on several ranks, recorded for real: does each ledger say what was consumed?

`python -m tests.ranks.table [WORLD ...]` prints a line for each: what the gradient that each rank
consumed is off the reference that a single process makes by hand, whether the item weights of the
ledgers are those of the reference, and how far the ledgers are from balancing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.ranks.trainings import SETUPS, SIMULATED, Setup, reference
from tracer.analysis.exact import said
from tracer.analysis.explain import Explainer, Explanation
from tracer.runfiles import file_of_rank
from tracer.semantics.effects import Exact
from tracer.tracefile import Trace, load

ROOT = Path(__file__).parents[2]
SECONDS = 240


@dataclass(frozen=True)
class Line:
    """One setup in one world. `off` is relative to the norm of the reference, None without one."""

    setup: Setup
    world: int
    off: float | None
    weights: tuple[str, ...]
    has_weights: bool
    balance: float | None
    words: str

    @property
    def is_right(self) -> bool:
        if self.off is None:
            return not self.has_weights and "?" in self.words
        told = "-" if self.world == 1 else self.setup.told(self.world)
        if not self.words.startswith(f"{told}:"):
            return False
        is_balanced = self.balance is not None and self.balance <= max(self.setup.error, 1e-6)
        return self.off <= self.setup.error and self.has_weights and is_balanced


def record(
    world: int,
    folder: Path,
    names: Sequence[str],
    module: str = "tests.ranks.trainings",
    flags: Sequence[str] = (),
) -> None:
    """All setups in one job: a process for each rank, or one that stands for all of them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict.fromkeys(flags, "1")}
    command = [sys.executable, "-m", module, str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), *names], cwd=ROOT, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(1 if SIMULATED in flags else world)
    ]  # fmt: skip
    for rank, process in enumerate(ranks):
        try:
            _, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            for other in ranks:
                other.kill()
            raise
        assert process.returncode == 0, f"rank {rank} of {world}: {errors[-3000:]}"


def read(setup: Setup, world: int, folder: Path) -> Line:
    """What the traces of a setup say, against the reference."""
    place = folder / setup.folder
    traces = {rank: load(file_of_rank(place / "run.trace", rank)) for rank in range(world)}
    off: list[float] = []
    told: dict[str, None] = {}
    balances: list[float | None] = []
    has_weights, words = True, ""
    for rank, trace in traces.items():
        if not setup.consumes(rank):
            continue
        if setup.weight is not None:
            wanted = reference(setup, world, rank)
            consumed = torch.load(place / f"consumed.{rank}")
            off += [_off(a, b) for a, b in zip(consumed, wanted.values(), strict=True)]
        for one in _explained(trace, traces, setup.step):
            told |= dict.fromkeys(said(row.weight) for row in one.ledger.rows)
            has_weights = has_weights and _weighs(one, setup, world)
            balances.append(one.balance)
            axis = one.verdict.axes[-1]
            words = f"{axis.verdict}: {axis.words}"
    for trace in traces.values():
        trace.close()
    known = [balance for balance in balances if balance is not None]
    is_known = len(known) == len(balances)
    return Line(
        setup, world, max(off) if off else None, tuple(told), has_weights,
        max(known) if is_known and known else None, words,
    )  # fmt: skip


def _explained(trace: Trace, traces: dict[int, Trace], step: int) -> list[Explanation]:
    overview = Explainer(trace, traces).overview(step)
    return [one for group in overview.groups for one in group.members]


def _weighs(one: Explanation, setup: Setup, world: int) -> bool:
    """Whether the ledger has a row of the right weight for each call of each rank, and no other."""
    if setup.weight is None:
        return all(row.weight is not None for row in one.ledger.rows)
    own = one.ledger.rank or 0
    given = setup.rows
    expected = (
        [(rank, *given(world, rank)) for rank in range(world)]
        if given is not None
        else [
            (rank, setup.items(rank), _rounded(setup.weight(world, rank, call)))
            for rank in setup.mates(world, own)
            for call in range(setup.calls)
            if setup.contributes(rank, call)
        ]
    )
    found = [
        (own if row.rank is None else row.rank, row.items, _rounded(row.weight))
        for row in one.ledger.rows
    ]
    return sorted(found, key=str) == sorted(expected, key=str)


def _rounded(weight: Exact | None) -> object:
    """Fractions must be met exactly, measured factors to four digits."""
    return f"{weight:.3e}" if isinstance(weight, float) else weight


def _off(consumed: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((consumed - wanted).norm() / wanted.norm())


def table(worlds: Sequence[int], names: Sequence[str] = ()) -> list[Line]:
    """A line for each setup and world."""
    lines = []
    for world in worlds:
        chosen = [s for s in SETUPS if world in s.worlds and (not names or s.name in names)]
        with tempfile.TemporaryDirectory() as folder:
            record(world, Path(folder), [setup.name for setup in chosen])
            lines += [read(setup, world, Path(folder)) for setup in chosen]
    return lines


def text(lines: Sequence[Line]) -> str:
    rows = [("", "setup", "ranks", "off reference", "ledger off", "one item weighs", "ranks, told")]
    rows += [
        (
            "ok" if line.is_right else "WRONG", line.setup.name, str(line.world),
            "-" if line.off is None else f"{line.off:.0e}",
            "-" if line.balance is None else f"{line.balance:.0e}",
            ", ".join(line.weights), line.words,
        )
        for line in lines
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> int:
    lines = table([int(word) for word in sys.argv[1:]] or [1, 2, 4])
    print(text(lines))
    wrong = sum(not line.is_right for line in lines)
    print(f"{len(lines)} setups, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
