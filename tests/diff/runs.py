"""A small model trained in many ways, each of them recorded: the pairs that `diff` compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tracer
from tracer.analysis.diff.difference import Difference, compare
from tracer.analysis.diff.sides import Side
from tracer.tracefile import load
from tracer.views.diff import difference_text
from tracer.views.terminal import Ink


class Net(nn.Module):
    """Two layers; a dropout or one layer more where a test asks for it."""

    def __init__(self, drop: float | None = None, deeper: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(10, 12)
        self.drop = None if drop is None else nn.Dropout(drop)
        self.middle = nn.Linear(12, 12) if deeper else None
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        if self.drop is not None:
            hidden = self.drop(hidden)
        if self.middle is not None:
            hidden = torch.tanh(self.middle(hidden))
        answers: Tensor = self.last(hidden)
        return answers


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        net = Net()
        self.encoder, self.head = net.first, net.last

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(torch.tanh(self.encoder(x)))
        return answers


class WithLoss(nn.Module):
    """A model that returns its own loss, as what runs in DataParallel often does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.net(x), y).unsqueeze(0)


def data(step: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randn(count, 10, generator=generator), torch.randn(count, 2, generator=generator)


def nothing(model: nn.Module) -> None:
    """What most runs do to their model."""


@dataclass(frozen=True)
class Run:
    """How to train: `parts` are the sizes of the backward calls of a step."""

    parts: tuple[int, ...] = (16,)
    divide: float = 1
    steps: int = 3
    seed: int = 0
    data_seed: int = 0
    lr: float = 0.1
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    options: tuple[tuple[str, float], ...] = ()
    model: Callable[[], nn.Module] = Net
    loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss
    prepare: Callable[[nn.Module], object] = nothing
    zeroes_at: Callable[[int], bool] = lambda step: True
    clip: float | None = None
    scales: bool = False
    dtype: torch.dtype = torch.float32
    autocast: bool = False

    def train(self) -> None:
        torch.manual_seed(self.seed)
        model = self.model().to(self.dtype)
        self.prepare(model)
        optimizer = self.optimizer(model.parameters(), lr=self.lr, **dict(self.options))
        scaler = torch.amp.GradScaler("cpu", enabled=self.scales)
        for step in range(1, self.steps + 1):
            if self.zeroes_at(step):
                optimizer.zero_grad()
            x, y = (t.to(self.dtype) for t in data(step, sum(self.parts), self.data_seed))
            for part in zip(x.split(list(self.parts)), y.split(list(self.parts)), strict=True):
                scaler.scale(self._loss(model, *part)).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            scaler.step(optimizer)
            scaler.update()

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            answers = model(x)
        loss = self.loss(answers.to(self.dtype), y)
        return loss if self.divide == 1 else loss / self.divide


def replicated(gpus: int, how: str = "mean", loss_inside: bool = True) -> Callable[[], None]:
    """DataParallel over virtual GPUs: a loss per replica, or one loss after the gather."""

    def train() -> None:
        with tracer.virtual_gpus(gpus):
            torch.manual_seed(0)
            inner = WithLoss() if loss_inside else Net()
            model = nn.DataParallel(inner.cuda())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(1, 4):
                optimizer.zero_grad()
                x, y = (t.cuda() for t in data(step, 16))
                losses = model(x, y) if loss_inside else F.mse_loss(model(x), y, reduction="none")
                getattr(losses, how)().backward()
                optimizer.step()

    return train


def one_with_loss() -> None:
    """The same as `replicated`, without replicas."""
    torch.manual_seed(0)
    model = WithLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 4):
        optimizer.zero_grad()
        model(*data(step, 16)).mean().backward()
        optimizer.step()


def record(path: Path, what: Run | Callable[[], object]) -> Path:
    with tracer.Recorder(path, script=f"{path.stem}.py"):
        (what.train if isinstance(what, Run) else what)()
    return path


@contextmanager
def compared(a: Path, b: Path, *steps: int) -> Iterator[Difference]:
    """Two traces compared, open as long as the answer is looked at."""
    with ExitStack() as stack:
        traces = [stack.enter_context(load(path)) for path in (a, b)]
        wanted = (steps[0], steps[-1]) if steps else (None, None)
        sides = [
            Side(trace, name, step)
            for trace, name, step in zip(traces, ("A", "B"), wanted, strict=True)
        ]
        yield compare(sides[0], sides[1])


def text_of(a: Path, b: Path, *steps: int) -> str:
    with compared(a, b, *steps) as found:
        return difference_text(found, Ink())


def section(text: str, title: str) -> list[str]:
    """The lines below a title, without their indent."""
    lines = text.splitlines()
    if title not in lines:
        return []
    rest = lines[lines.index(title) + 1 :]
    return [line.strip() for line in rest[: rest.index("") if "" in rest else None]]


def headline(text: str) -> str:
    return text.split("\n\n")[1]
