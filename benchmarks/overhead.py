"""What recording costs: training steps with and without it, memory, bytes of trace.

python benchmarks/overhead.py [--only mlp,gpt2] [--pairs 15] [--parts time,memory,bytes]

Times are taken in pairs, in one process, a block of steps with the recorder and one without right
after one another, in the order that the pair's number decides; the median of the ratios is what a
machine with other work to do changes least. Processor time stands beside it, for the same reason.
Each block has one step before it that is not timed. Memory is the peak of a process of its own.
What reading costs is measured by `benchmarks/reading.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import tracer
from benchmarks import peers
from benchmarks.models import WORKLOADS, Workload, chain

REPOSITORY = Path(__file__).parents[1]
Results = dict[str, Any]
Around = Callable[[], AbstractContextManager[Any]]

LEVELS = ("edges", "buffers", "structure", "unrecorded")
STEADY = ("mlp", "lstm", "yolo", "minigpt")
"""Quick enough for many steps."""


def recording(level: str, path: Path) -> tracer.Recorder:
    if level == "unrecorded":
        return tracer.Recorder(path, steps=(10**9, None))
    return tracer.Recorder(path, detail=level)


def timed(step: Callable[[], None], block: int, around: Around) -> tuple[float, float]:
    """Seconds by the wall and of the processor for `block` steps, after one that is not timed.

    That one is called from the same line: another would be another graph to the recorder.
    """
    wall = processor = 0.0
    with around():
        for number in range(1 + block):
            if number == 1:
                gc.collect()
                wall, processor = time.perf_counter(), time.process_time()
            step()
        return time.perf_counter() - wall, time.process_time() - processor


def compare(workload: Workload, step: Callable[[], None], around: Around, pairs: int) -> Results:
    """How many times as long a step takes inside `around`."""
    around_nothing = nullcontext
    walls, processors, base, extra = [], [], [], []
    for pair in range(pairs):
        if pair % 2:
            there = timed(step, workload.block, around)
            here = timed(step, workload.block, around_nothing)
        else:
            here = timed(step, workload.block, around_nothing)
            there = timed(step, workload.block, around)
        walls.append(there[0] / here[0])
        processors.append(there[1] / here[1])
        base.append(here[0] / workload.block)
        extra.append((there[0] - here[0]) / workload.block)
    low, middle, high = statistics.quantiles(walls, n=4)
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "processor": statistics.median(processors),
        "step_ms": 1e3 * statistics.median(base),
        "extra_ms": 1e3 * statistics.median(extra),
        "pairs": pairs,
    }


def times(names: Iterable[str], pairs: int, folder: Path) -> Results:
    results: Results = {}
    print(f"{'a training step':36}{'untraced':>10} " + "".join(f"{x:>22}" for x in LEVELS))
    for name in names:
        workload = WORKLOADS[name]
        torch.manual_seed(0)
        step = workload.make()
        step()
        # Long steps need fewer pairs: there is less noise in each.
        count = pairs if workload.block > 1 else max(5, pairs // 3)
        results[name] = {
            level: compare(
                workload, step, lambda level=level: recording(level, folder / "a.trace"), count
            )
            for level in LEVELS
        }
        plain = statistics.median(r["step_ms"] for r in results[name].values())
        cells = "".join(
            f"   x {r['ratio']:6.3f} (cpu {r['processor']:6.3f})" for r in results[name].values()
        )
        print(f"{workload.title:36}{plain:8.2f}ms {cells}", flush=True)
    return results


def peak(name: str, level: str, steps: int = 3) -> float:
    """MiB that a process of its own held at most."""
    command = [sys.executable, __file__, "--alone", name, level, str(steps)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1]) / 1024


def alone(name: str, level: str, steps: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    workload = chain(int(name[5:])) if name.startswith("chain") and name != "chain" else None
    step = workload() if workload else WORKLOADS[name].make()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.trace"
        with nullcontext() if level == "none" else recording(level, path):
            for _ in range(steps):
                step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory(names: Iterable[str]) -> Results:
    results: Results = {}
    print(f"\n{'peak memory':36}{'untraced':>12}" + "".join(f"{x:>12}" for x in LEVELS[:2]))
    for name in names:
        plain = peak(name, "none")
        results[name] = {"untraced_MiB": plain}
        for level in LEVELS[:2]:
            results[name][level] = peak(name, level) / plain
        cells = "".join(f"    x {results[name][level]:6.3f}" for level in LEVELS[:2])
        print(f"{WORKLOADS[name].title:36}{plain:8.0f}MiB {cells}", flush=True)
    per_node = {}
    for length in (100_000, 1_000_000):
        bare, traced = peak(f"chain{length}", "none", 1), peak(f"chain{length}", "edges", 1)
        per_node[length] = {"untraced_MiB": bare, "traced_MiB": traced}
        print(
            f"{f'chain of {length:,}':36}{bare:8.0f}MiB      {traced:.0f} MiB, "
            f"{(traced - bare) * 2**20 / length:.0f} bytes a node more",
            flush=True,
        )
    return {**results, "chain": per_node}


def nodes(folder: Path) -> Results:
    """What a node more costs, over four sizes of a chain: the same where the cost is linear."""
    results: Results = {}
    print(f"\n{'a call over a chain':36}{'untraced':>12}{'recorded':>12}{'a node more':>14}")
    for length in (5_000, 10_000, 20_000, 40_000, 80_000):
        step = chain(length)()
        found = compare(
            Workload("", lambda step=step: step, 1), step,
            lambda: recording("edges", folder / "a.trace"), 5,
        )  # fmt: skip
        results[str(length)] = {**found, "node_us": 1e3 * found["extra_ms"] / length}
        print(
            f"{f'{length:,} multiplications':36}{found['step_ms']:10.0f}ms"
            f"{found['step_ms'] + found['extra_ms']:10.0f}ms"
            f"{results[str(length)]['node_us']:12.1f}us",
            flush=True,
        )
    return results


def contributions(trace: tracer.Trace) -> int:
    return sum(len(trace.layout(call.layout).contributions) for call in trace.calls)


def sizes(names: Iterable[str], folder: Path) -> Results:
    """Bytes that each further step adds; all bytes of a long run, per contribution."""
    results: Results = {}
    print(f"\n{'bytes of trace':36}{'a step':>10}{'a contribution':>16}{'of 1,000 steps':>16}")
    for name in names:
        torch.manual_seed(0)
        step = WORKLOADS[name].make()
        found = []
        for steps in (10, 1000 if name in ("mlp", "yolo") else 50):
            path = folder / f"{name}{steps}.trace"
            with tracer.Recorder(path):
                for _ in range(steps):
                    step()
            with tracer.load(path) as trace:
                found.append((steps, path.stat().st_size, contributions(trace)))
        (few, small, n0), (many, large, n1) = found
        each, whole = (large - small) / (many - few), large / n1
        results[name] = {
            "step": each, "contribution": (large - small) / (n1 - n0), "whole": whole,
            "contributions_a_step": n1 / many, "steps": many,
        }  # fmt: skip
        print(
            f"{WORKLOADS[name].title:36}{each:10.0f}{results[name]['contribution']:16.1f}"
            f"{whole:13.1f} ({many})",
            flush=True,
        )
    return results


def rivals(names: Iterable[str], pairs: int, folder: Path) -> Results:
    results: Results = {}
    print(f"\n{'beside us':36}" + "".join(f"{name:>14}" for name in names))
    steps = {}
    for name in names:
        torch.manual_seed(0)
        steps[name] = WORKLOADS[name].make()
        steps[name]()
    ours = {f"gradtrace {x}": lambda x=x: recording(x, folder / "a.trace") for x in LEVELS[:1]}
    for title, around in {**ours, **peers.installed()}.items():
        results[title] = {
            name: compare(WORKLOADS[name], steps[name], around, max(5, pairs // 3))
            for name in names
        }
        cells = "".join(f"      x {results[title][name]['ratio']:6.2f}" for name in names)
        print(f"{title:36}{cells}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, by comma")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--parts", default="time,nodes,memory,bytes,peers", help="by comma")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--alone", nargs=3, metavar=("NAME", "LEVEL", "STEPS"))
    options = parser.parse_args()
    if options.alone:
        alone(options.alone[0], options.alone[1], int(options.alone[2]))
        return
    torch.set_num_threads(1)
    names, parts = options.only.split(","), options.parts.split(",")
    if unknown := set(names) - set(WORKLOADS):
        parser.error(f"no workload is called {min(unknown)}; known are {', '.join(WORKLOADS)}")
    results: Results = {"torch": str(torch.__version__), "python": sys.version.split()[0]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        large = [name for name in names if name not in STEADY and name != "chain"]
        steady = [name for name in names if name in STEADY]
        jobs: dict[str, Callable[[], Results]] = {
            "time": lambda: times(names, options.pairs, folder),
            "nodes": lambda: nodes(folder),
            "memory": lambda: memory(large),
            "bytes": lambda: sizes(steady, folder),
            "peers": lambda: rivals(steady, options.pairs, folder),
        }
        for part in parts:
            results[part] = jobs[part]()
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
