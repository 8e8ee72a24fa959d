"""What virtual GPUs cost: steps on one of them against the same steps on the CPU, in pairs.

python benchmarks/virtual_gpus.py [--pairs 30]

Each pair times one training step of each, one right after the other, in the order that the pair's
number decides; the median of the ratios is what a machine with other work to do changes least.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tracer.devices import virtual_gpus


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 as in the paper, with 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class Transformer(nn.Module):
    """A language model of four layers of width 128."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 1000)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]).to(tokens.device)
        answer: Tensor = self.head(self.encoder(self.embedding(tokens), mask=mask, is_causal=True))
        return answer.flatten(0, 1)


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 128, 128), torch.randint(0, 1000, (4,))


def sentences() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 1000, (8, 64))
    return tokens, tokens.flatten()


def stepper(model: nn.Module, batch: tuple[Tensor, Tensor], device: str) -> Callable[[], float]:
    """A function that does one step of training and says how long it took."""
    model = copy.deepcopy(model).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        start = time.perf_counter()
        inputs, targets = (tensor.to(device) for tensor in batch)
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - start

    return step


def compare(name: str, model: nn.Module, batch: tuple[Tensor, Tensor], pairs: int) -> None:
    cpu, gpu = stepper(model, batch, "cpu"), stepper(model, batch, "cuda:0")
    for step in (cpu, gpu, cpu, gpu):
        step()
    ratios, plain = [], []
    for pair in range(pairs):
        if pair % 2:
            there, here = gpu(), cpu()
        else:
            here, there = cpu(), gpu()
        ratios.append(there / here)
        plain.append(here)
    low, middle, high = statistics.quantiles(ratios, n=4)
    milliseconds = 1e3 * statistics.median(plain)
    print(
        f"{name:12} CPU {milliseconds:7.1f} ms a step   virtual GPU x {middle:.3f}"
        f"   (quartiles {low:.3f} .. {high:.3f}, {pairs} pairs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with virtual_gpus(1):
        compare("ResNet-18", resnet18(), images(), pairs)
        compare("transformer", Transformer(), sentences(), pairs)


if __name__ == "__main__":
    main()
