"""A job of ranks, each training in a few ways: `torchrun -m tests.diff.rank_runs FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import tracer
from tests.diff.runs import Net, data
from tracer.runfiles import file_of_rank

Losses = Callable[[Tensor, Tensor], Tensor]


def train(loss: Losses, sizes: tuple[int, int], calls: int = 1) -> None:
    """As `Run()` of tests.diff.runs, its 16 samples split over two ranks."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 4):
        optimizer.zero_grad()
        x, y = (part.split(list(sizes))[dist.get_rank()] for part in data(step, 16))
        for one, other in zip(x.chunk(calls), y.chunk(calls), strict=True):
            loss(model(one), other).backward()
        optimizer.step()


def share_of_global_mean(answers: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(answers, targets, reduction="sum") / 32


WAYS: dict[str, Callable[[], None]] = {
    "mean": lambda: train(F.mse_loss, (8, 8)),
    "global_count": lambda: train(share_of_global_mean, (8, 8)),
    "ragged": lambda: train(F.mse_loss, (12, 4)),
    "not_divided": lambda: train(F.mse_loss, (8, 8), calls=2),
}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    for name, way in WAYS.items():
        with tracer.Recorder(file_of_rank(folder / f"{name}.trace", dist.get_rank())):
            way()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
