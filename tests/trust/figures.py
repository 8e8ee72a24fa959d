"""The counts of what was proven, one line each: `python -m tests.trust.figures [PART ...]`.

Parts: operators, modules, optimizers (PyTorch's own databases), programs (random ones, as many as
`--examples` says from number `--first` on, in child processes), weights (of the items of as many
random losses) and broken (traces broken in every way, `--examples` times each). The figures of
other people's programs are printed by `benchmarks/real_programs.py`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import given, settings

from tests.trust import databases, test_weights
from tests.trust.batches import judge_many
from tests.trust.damage import BROKEN, copy_of, record
from tests.trust.reading import ask, questions, wrong_with
from tests.trust.weights import Loss, losses

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


def of_programs(examples: int, first: int) -> bool:
    """Random programs by number; each that fails, or kills its process, is printed."""
    many = judge_many(examples, first, tell=lambda line: print(line, flush=True))
    ours = [failure for failure in many.failures if failure.ours]
    theirs = len(many.failures) - len(ours)
    print(
        f"random programs {first} to {first + examples - 1}: {many}; same bits and words, all "
        f"balance; {len(ours)} do not; {theirs} kill torch without the recorder too",
        flush=True,
    )
    return not ours


def of_weights(examples: int) -> bool:
    """Random losses; one with a wrong claim is printed shrunk, as Python."""

    @settings(max_examples=examples, deadline=None, database=None,
              suppress_health_check=test_weights.QUIET)  # fmt: skip
    @given(losses())
    def all_of_them(loss: Loss) -> None:
        test_weights.judge(loss)

    try:
        all_of_them()
    except Exception as error:  # noqa: BLE001 - whatever a random loss brought to light
        print(f"item weights: {error!r}\n", *getattr(error, "__notes__", ()), sep="\n    ")
        return False
    counts = ", ".join(f"{count} {what}" for what, count in test_weights.SEEN.items())
    print(f"item weights: {counts}; no claim is wrong", flush=True)
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
    parts = [*DTYPES, "programs", "weights", "broken"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}")
    parser.add_argument("--examples", type=int, default=300, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="of the random programs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work: dict[str, Callable[[], bool]] = {
            **{part: lambda part=part: of_database(part, folder) for part in DTYPES},
            "programs": lambda: of_programs(options.examples, options.first),
            "weights": lambda: of_weights(options.examples),
            "broken": lambda: of_broken_traces(options.examples, folder),
        }  # fmt: skip
        for part in options.parts or parts:
            well &= work[part]()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
