"""The counts of what was proven, one line each: `python -m tests.trust.figures [PART ...]`.

Parts: operators, modules, optimizers (PyTorch's own databases), programs (random ones, as many as
`--examples` says), weights (of the items of as many random losses) and broken (traces broken in
every way, `--examples` times each). The figures of other people's programs are printed by
`benchmarks/real_programs.py`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from tests.trust import databases, test_random_programs, test_weights
from tests.trust.damage import BROKEN, copy_of, record
from tests.trust.programs import programs
from tests.trust.reading import ask, questions, wrong_with
from tests.trust.weights import losses

DTYPES = {
    "operators": (torch.float32, torch.float64, torch.bfloat16, torch.complex64),
    "modules": (torch.float32, torch.float64),
    "optimizers": (torch.float32, torch.complex64),
}


def of_database(name: str, folder: Path) -> bool:
    """Print a line for each dtype; whether all is well."""
    well = True
    for dtype in DTYPES[name]:
        tally = databases.Tally(f"{name} {str(dtype).removeprefix('torch.')}")
        for entry in getattr(databases, name)(dtype):
            databases.judge(entry, folder / "run.trace", tally)
        print(tally, flush=True)
        for problem in tally.problems[:10]:
            print(f"    {problem}")
        well &= not tally.problems
    return well


@dataclass(frozen=True)
class Random:
    """What is drawn at random, what judges it, and what it came to."""

    name: str
    drawn: SearchStrategy[Any]
    judge: Callable[[Any], None]
    seen: Counter[str]
    proven: str


RANDOM = {
    "programs": Random(
        "random programs", programs(), test_random_programs.judge, test_random_programs.SEEN,
        "same bits and words, all balance",
    ),
    "weights": Random(
        "item weights", losses(), test_weights.judge, test_weights.SEEN, "no claim is wrong"
    ),
}  # fmt: skip


def of_random(part: Random, examples: int) -> bool:
    """Random examples; a failure is printed shrunk, as Python."""

    @settings(max_examples=examples, deadline=None, database=None,
              suppress_health_check=test_random_programs.QUIET)  # fmt: skip
    @given(part.drawn)
    def all_of_them(example: object) -> None:
        part.judge(example)

    try:
        all_of_them()
    except Exception as error:  # noqa: BLE001 - whatever a random program brought to light
        print(f"{part.name}: {error!r}\n", *getattr(error, "__notes__", ()), sep="\n    ")
        return False
    counts = ", ".join(f"{count} {what}" for what, count in part.seen.items())
    print(f"{part.name}: {counts}; {part.proven}", flush=True)
    return True


def of_broken_traces(examples: int, folder: Path) -> bool:
    """Traces broken in every way, through every command that reads."""
    record(folder / "sound.trace")
    codes: Counter[int] = Counter()
    wrong: Counter[str] = Counter()
    for seed in range(examples):
        for kind, break_it in BROKEN.items():
            path = copy_of(folder / "sound.trace", folder)
            break_it(path, random.Random(f"figures {kind} {seed}"))
            for words in questions([path, folder / "sound.trace"], folder, "first.weight"):
                try:
                    answer = ask(words)
                except Exception as error:  # noqa: BLE001 - counted, that is what this is for
                    wrong[f"{kind}, {words[0]}: {error!r}"] += 1
                    continue
                codes[answer.code] += 1
                problem = wrong_with(answer)
                wrong.update([f"{kind}, {words[0]}: {problem}"] if problem else [])
    print(
        f"broken traces: {examples * len(BROKEN)} of {len(BROKEN)} kinds, {codes.total()} "
        f"questions: {codes[2]} clear errors, {codes[0] + codes[1]} answers, "
        f"{sum(wrong.values())} neither"
    )
    for problem, count in wrong.most_common(20):
        print(f"    {count} x {problem}")
    return not wrong


def main() -> int:
    parts = [*DTYPES, *RANDOM, "broken"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}")
    parser.add_argument("--examples", type=int, default=300, metavar="N")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work: dict[str, Callable[[], bool]] = {
            **{part: lambda part=part: of_database(part, folder) for part in DTYPES},
            **{name: lambda part=part: of_random(part, options.examples)
               for name, part in RANDOM.items()},
            "broken": lambda: of_broken_traces(options.examples, folder),
        }  # fmt: skip
        for part in options.parts or parts:
            well &= work[part]()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
