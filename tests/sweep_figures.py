"""What PyTorch's own operator samples say of the recorder and the rules: figures for the docs.

    python -m tests.sweep_figures              # all of op_db, in double precision: minutes
    python -m tests.sweep_figures --every 20   # one operator in twenty

Each operator with autograd is run with all its samples, plain and recorded: the gradients must be
the same bits and the books must balance. Then each law that a rule claims is checked on the numbers
of every node, in backward calls and in backward calls of these.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from tests.semantics import test_sweep as laws
from tests.semantics.test_all_names import names_of_torch
from tests.trust import databases as books
from tracer.semantics import known_names

DTYPES = (torch.float64, torch.complex128)


@dataclass
class Figures:
    """How many operators did what."""

    operators: int = 0
    without_sample: list[str] = field(default_factory=list)
    traced: int = 0
    balanced: int = 0
    lawful: int = 0
    opaque: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    sums: int = 0
    unchecked: int = 0
    worst: float = 0.0
    nodes: int = 0
    kinds: set[str] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, recorded: books.Tally, observed: laws.Tally) -> None:
        self.operators += 1
        self.samples += recorded.samples
        self.sums += recorded.fan_ins + recorded.buffers
        self.unchecked += recorded.unchecked
        self.worst = max(self.worst, recorded.worst)
        self.nodes += observed.nodes
        self.kinds |= set(observed.names)
        self.checked |= observed.checked
        self.reasons.update(observed.opaque)
        if not recorded.samples:
            self.without_sample.append(name)
            return
        off = [problem for problem in recorded.problems if "Imbalance(" in problem]
        self.traced += len(off) == len(recorded.problems)
        self.balanced += not off
        self.lawful += not observed.broken
        if observed.opaque:
            self.opaque[name] += 1
        self.problems += [*recorded.problems, *observed.broken.values()]

    def lines(self) -> Iterator[str]:
        ran = self.operators - len(self.without_sample)
        yield f"operators with autograd   {self.operators}"
        if self.without_sample:
            yield f"  without any sample that torch runs: {', '.join(self.without_sample)}"
        yield f"  traced, with the same bits   {self.traced} of {ran} ({self.samples:,} samples)"
        checked = f"{self.sums:,} sums, worst error {self.worst:.0e}, {self.unchecked:,} not finite"
        yield f"  balance                      {self.balanced} of {ran} ({checked})"
        yield (
            f"  obey the laws of the rules   {self.lawful} of {ran} ({self.nodes:,} nodes of "
            f"{len(self.kinds)} kinds, a law checked for {len(self.checked)})"
        )
        yield f"  pass an opaque node          {len(self.opaque)} of {ran}"
        for reason, count in sorted(self.reasons.items()):
            yield f"    {count:6,}  {reason}"


def classes() -> Iterator[str]:
    """Every node class of this torch: with a rule, or a reason why not."""
    names = [name.removesuffix("_copy") for name in names_of_torch()]
    known = [known_names()[name] for name in names if name in known_names()]
    silent = sum(rule != "rule" for rule in known)
    yield f"torch {torch.__version__}"
    yield f"node classes              {len(known)} of {len(names)} with a rule or a reason"
    yield f"  with a rule                  {len(known) - silent}"
    yield f"  opaque, with a reason        {silent}"


def operators(every: int) -> list[Any]:
    """One operator in so many of those that have an autograd formula on the CPU."""
    chosen = [op for op in op_db if op.supports_autograd]
    return [op for op in chosen if set(DTYPES) & op.supported_dtypes("cpu")][::every]


def swept(operator: Any, path: Path) -> tuple[books.Tally, laws.Tally]:
    recorded, observed = books.Tally(operator.name), laws.Tally()
    for dtype in DTYPES:
        if dtype in operator.supported_dtypes("cpu"):
            entry = books.Entry(
                operator.name, lambda dtype=dtype: books.operator_pieces(operator, dtype)
            )
            books.judge(entry, path, recorded)
    torch.manual_seed(0)
    laws.sweep_operator(observed, operator)
    return recorded, observed


def figures(every: int) -> Figures:
    found = Figures()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, operator in enumerate(operators(every), start=1):
            if sys.stderr.isatty():
                print(f"\r{number} {operator.name:60.60}", end="", file=sys.stderr)
            found.add(operator.name, *swept(operator, Path(folder) / "t.trace"))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep_figures")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one operator in N")
    found = figures(parser.parse_args(arguments).every)
    for line in itertools.chain(classes(), found.lines()):
        print(line)
    for problem in found.problems[:40]:
        print(f"PROBLEM {problem}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
