"""What it costs to see every collective: our kernels, at rest and recording, against a mode.

    python benchmarks/exchanges.py

One process, gloo, a perceptron of 8 layers of 64 under DDP. Milliseconds per training step, the
median of 5 rounds of 100 steps taken in turn.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import tracer

STEPS, ROUNDS = 100, 5


class Looking(TorchDispatchMode):
    """Sees every operation, and does nothing."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    x = torch.randn(16, 64)
    began = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return 1000 * (time.perf_counter() - began) / STEPS


def main() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    folder = Path(tempfile.mkdtemp())
    layers = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]
    model = DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer)
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "without": nullcontext,
        "kernels at rest (step not recorded)": lambda: tracer.Recorder(
            folder / "rest.trace", steps=(10**9, None)
        ),
        "a dispatch mode that does nothing": Looking,
        "recording, structure only": lambda: tracer.Recorder(
            folder / "structure.trace", detail="structure"
        ),
        "recording all": lambda: tracer.Recorder(folder / "all.trace"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with way():
                times[name].append(train(model, optimizer))
    for name, taken in times.items():
        print(f"{name:38} {statistics.median(taken):7.3f} ms")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
