"""What reading costs: processor time and peak memory of each command, on large traces.

python benchmarks/reading.py [--only steps,chain] [--contributions 1000000] [--keep FOLDER]

Each trace is recorded in a process of its own, whose time and memory are told too, and each command
runs in one. What counts is processor time, which other work on the machine changes less than the
clock. With `--keep` the traces stay in a folder, and those that are there are not recorded again:
the two of 10^6 contributions take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

# No torch here: what a process starts with counts as the memory of those that it starts.
from tracer.tracefile import load

REPOSITORY = Path(__file__).parents[1]
RECORDER = Path(__file__).with_name("large.py")
Results = dict[str, Any]


CASES: dict[str, tuple[str, float]] = {
    "steps": ("thousands of steps of yolo_toy", 1.0),
    "uneven": ("thousands of windows, no two alike", 0.1),
    "loop": ("one call of an LSTM cell in a loop", 0.1),
    "chain": ("one call of a chain of multiplications", 1.0),
}
"""What `benchmarks/large.py` records, and the share of the contributions that were asked for."""

COMMANDS: dict[str, list[str]] = {
    "info": ["info", "{trace}"],
    "explain": ["explain", "{trace}"],
    "explain P": ["explain", "{trace}", "{parameter}"],
    "check": ["check", "{trace}"],
    "graph": ["graph", "{trace}", "-o", "{folder}/graph.svg"],
}


def spent(command: list[str]) -> Results:
    """Processor time and the most memory of a process of its own; its exit code."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "seconds": usage.ru_utime + usage.ru_stime,
        "MiB": usage.ru_maxrss / 1024,
        "exit": process.returncode,
    }


def measured(name: str, contributions: int, folder: Path) -> Results:
    (title, share), path = CASES[name], folder / f"{name}.trace"
    count = int(contributions * share)
    results: Results = {}
    if not path.exists():
        results["recording"] = spent([sys.executable, str(RECORDER), name, str(count), str(path)])
    with load(path) as trace:
        sizes = [trace.sizes[call.layout] for call in trace.calls]
        results["contributions"] = sum(size.contributions for size in sizes)
        results["calls"] = len(trace.calls)
        parameter = next(b.name for b in trace.buffers.values() if b.name)
    results["MiB"] = path.stat().st_size / 2**20
    print(
        f"\n{title}: {results['contributions']:,} contributions in {results['calls']:,} "
        f"calls, {results['MiB']:.0f} MiB"
    )
    told("recorded", results.get("recording"))
    for command, words in COMMANDS.items():
        filled = [w.format(trace=path, parameter=parameter, folder=folder) for w in words]
        results[command] = spent([sys.executable, str(REPOSITORY / "cli.py"), *filled])
        told(command, results[command])
    return results


def told(what: str, found: Results | None) -> None:
    if found is not None:
        note = "" if found["exit"] in (0, 1) else f"   exit {found['exit']}"
        print(f"  {what:10}{found['seconds']:9.2f} s {found['MiB']:8.0f} MiB{note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="cases, by comma")
    parser.add_argument("--contributions", type=int, default=10**6, help="of a large trace")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where traces stay")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    results: Results = {"python": sys.version.split()[0]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only.split(","):
            results[name] = measured(name, options.contributions, folder)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
