"""What the benchmarks train: small nets, ResNet-50, GPT-2 small, an LSTM, a detector, a chain."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import Tensor, nn

__all__ = ["WORKLOADS", "Workload"]

Step = Callable[[], None]


@dataclass(frozen=True)
class Workload:
    """Something to train. `block` steps are timed together, so that a clock tick is nothing."""

    title: str
    make: Callable[[], Step]
    block: int


def training(
    model: nn.Module, inputs: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer
) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def mlp() -> Step:
    """Four layers of 64, batch 64: next to no arithmetic, so that all is overhead."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return training(model, torch.randn(64, 64), torch.randint(0, 64, (64,)), optimizer)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != 4 * width:
            conv = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet50() -> nn.Module:
    """ResNet-50 as in the paper (stride in the 3 x 3, as everybody has it), 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def resnet(size: int) -> Callable[[], Step]:
    def make() -> Step:
        model = resnet50()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        images, labels = torch.randn(8, 3, size, size), torch.randint(0, 1000, (8,))
        return training(model, images, labels, optimizer)

    return make


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            part.view(shape).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """GPT-2 without dropout, its output layer tied to its embedding."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GptBlock(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits.flatten(0, 1)


def gpt(batch: int, layers: int, width: int, heads: int, vocabulary: int) -> Callable[[], Step]:
    def make() -> Step:
        model = Gpt(layers, width, heads, vocabulary, 128)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        tokens = torch.randint(0, vocabulary, (batch, 128))
        return training(model, tokens, tokens.flatten(), optimizer)

    return make


class Reader(nn.Module):
    """A character model: an LSTM of two layers, unrolled by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 128)
        self.lstm = nn.LSTM(128, 128, 2, batch_first=True)
        self.head = nn.Linear(128, 100)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embedding(tokens))[0])
        return logits.flatten(0, 1)


def lstm() -> Step:
    model = Reader()
    tokens = torch.randint(0, 100, (16, 64))
    optimizer = torch.optim.Adam(model.parameters())
    return training(model, tokens, tokens.flatten(), optimizer)


def sample(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "samples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def yolo() -> Step:
    """The detector of samples/yolo_toy.py, two backward calls a step, as its darknet has it."""
    toy = sample("yolo_toy")
    convention = toy.Darknet(8)
    model = toy.Yolo()
    groups = toy.parameter_groups(model, convention.decay)
    optimizer = torch.optim.SGD(groups, lr=convention.lr, momentum=0.9)
    batch = toy.random_batch(8, 96, seed=1)

    def step() -> None:
        optimizer.zero_grad()
        for part in batch.split(2):
            reduced = convention.reduce(toy.losses(model(part.images), part), part)
            loss = sum(convention.weights[name] * term for name, term in reduced.items())
            convention.backward(loss)
        convention.step(optimizer)

    return step


def chain(length: int) -> Callable[[], Step]:
    """One multiplication after the other: as many nodes as `length`, of eight elements each."""

    def make() -> Step:
        w = torch.ones(8, requires_grad=True)

        def step() -> None:
            x = w
            for _ in range(length):
                x = x * 1.0
            x.sum().backward()
            w.grad = None

        return step

    return make


WORKLOADS: dict[str, Workload] = {
    "mlp": Workload("MLP, 4 layers of 64", mlp, 50),
    "lstm": Workload("LSTM, 2 layers of 128, sequence 64", lstm, 3),
    "yolo": Workload("yolo_toy, 8 images in 4 calls", yolo, 3),
    "minigpt": Workload("GPT, 4 layers of 128", gpt(4, 4, 128, 4, 1000), 3),
    "resnet64": Workload("ResNet-50, 8 images of 64 x 64", resnet(64), 1),
    "resnet224": Workload("ResNet-50, 8 images of 224 x 224", resnet(224), 1),
    "gpt2": Workload("GPT-2 small, sequence 128, batch 2", gpt(2, 12, 768, 12, 50257), 1),
    "gpt2x8": Workload("GPT-2 small, sequence 128, batch 8", gpt(8, 12, 768, 12, 50257), 1),
    "chain": Workload("chain of 20,000 multiplications", chain(20_000), 1),
}
