"""Large traces: `python benchmarks/large.py NAME CONTRIBUTIONS PATH` records one."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import tracer
from benchmarks.models import chain, sample, training


def detector(contributions: int) -> None:
    """samples/yolo_toy.py on images of 32 x 32: two calls and 310 contributions a step."""
    toy = sample("yolo_toy")
    steps = -(-contributions // 310)
    with contextlib.redirect_stdout(io.StringIO()):
        toy.train(toy.parse(["--steps", str(steps), "--image-size", "32"]))


def uneven(contributions: int) -> None:
    """Windows of one to six calls, over four to eleven items each, clipped: no two are alike."""
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(1)

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(contributions // 35):
        optimizer.zero_grad()
        for _ in range(drawn(1, 7)):
            items = drawn(4, 12)
            targets = torch.randint(0, 4, (items,))
            loss = nn.functional.cross_entropy(model(torch.randn(items, 16)), targets)
            (loss / 4).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


class Unrolled(nn.Module):
    """An LSTM cell, called once for each element of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(8, 16), nn.Linear(16, 4)

    def forward(self, sequence: Tensor) -> Tensor:
        h = c = torch.zeros(sequence.shape[1], 16)
        answers = []
        for item in sequence:
            h, c = self.cell(item, (h, c))
            answers.append(self.out(h))
        return torch.stack(answers).flatten(0, 1)


def unrolled(contributions: int) -> None:
    """One step of a loop over a sequence: 28 contributions for each of its elements."""
    length = contributions // 28
    model = Unrolled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    targets = torch.randint(0, 4, (4 * length,))
    training(model, torch.randn(length, 4, 8), targets, optimizer)()


PROGRAMS: dict[str, Callable[[int], None]] = {
    "steps": detector,
    "uneven": uneven,
    "loop": unrolled,
    "chain": lambda contributions: chain(contributions)()(),
}


def record(name: str, contributions: int, path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tracer.Recorder(path) as recorder:
        PROGRAMS[name](contributions)
    if recorder.failure:
        raise SystemExit(recorder.failure)


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
