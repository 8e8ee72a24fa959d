"""Small networks, and a second opinion on what `DataParallel` should have computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions, batch norm, dropout and a linear layer, for images of 3 x 8 x 8."""

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(self.dropout(x.flatten(1)))


class LanguageModel(nn.Module):
    """A transformer whose output layer shares the weights of its embedding."""

    def __init__(self, words: int = 50, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.output = nn.Linear(width, words, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.encoder(self.embedding(tokens)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x).add_(self.shortcut(x)), inplace=True)


def small_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), Residual(8, 8, 1), Residual(8, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class ByHand:
    """A CPU copy of a `ConvNet`, run chunk by chunk as replicas would, with given dropout masks."""

    def __init__(self, net: ConvNet) -> None:
        self.net = ConvNet(net.dropout.p)
        self.net.load_state_dict({k: v.cpu() for k, v in net.state_dict().items()})

    def loss(self, images: Tensor, labels: Tensor, gpus: int, kept: Sequence[Tensor]) -> Tensor:
        before = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        after = before
        outputs = []
        for number, chunk in enumerate(images.chunk(gpus)):
            self._set_buffers(before)  # each replica starts from the same statistics
            outputs.append(self._forward(chunk, kept[number]))
            if number == 0:  # and those of the first are kept
                after = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        self._set_buffers(after)
        return F.cross_entropy(torch.cat(outputs), labels)

    def _forward(self, x: Tensor, kept: Tensor) -> Tensor:
        net = self.net
        x = F.relu(net.norm1(net.conv1(x)))
        x = F.relu(net.norm2(net.conv2(x))).flatten(1)
        return net.head(x * kept / (1 - net.dropout.p))

    def _set_buffers(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            self.net.get_submodule(owner)._buffers[leaf] = value.clone()
