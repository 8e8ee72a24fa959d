# /// script
# dependencies = ["torch"]
#
# [tool.tracer]
# gpus = 2
# ///
"""How far does one image move the weights? Three answers, given by one small YOLOv3.

The loss of a detector has four terms, and every code base reduces, accumulates and rescales them in
its own way. ``--convention`` says whose way it is:

darknet      The loss is summed over the images. The learning rate is divided by the batch size, and
             the weight decay multiplied by it, which keeps the decay of a step as it was.
gluon        Each image keeps its own loss and the gradients are summed; before the update,
             ``step(batch_size)`` divides them by the batch size.
ultralytics  Each term is a mean over the items it has, times the images of the micro-batch; the
             micro-batches of a step add up, towards a nominal batch of 64.

A step splits its batch into ``--subdivisions`` micro-batches, with a backward call for each. One
sees that darknet and gluon print the same lines: they take the same steps, although their gradients
differ by a factor of the batch size. Ultralytics weighs the terms, and their items, otherwise.
"""

import argparse
import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3  # red, green and blue boxes
ANSWERS = 5 + CLASSES  # of each anchor: x, y, w, h, is it an object, and of which class

IGNORE_ABOVE = 0.5  # an anchor that fits a box this well is not blamed for claiming it
NO_OBJECT = 0.5  # weight of an anchor without a box: they are many


class Scale(NamedTuple):
    """A grid of cells, `stride` pixels wide, each with the same anchors."""

    stride: int
    anchors: tuple[tuple[float, float], ...]  # width and height, as parts of the image


SCALES = (
    Scale(stride=16, anchors=((0.35, 0.35), (0.30, 0.55), (0.55, 0.30))),
    Scale(stride=8, anchors=((0.15, 0.15), (0.15, 0.30), (0.30, 0.15))),
)


# The network: a backbone, a neck that hands coarse features to the fine grid, a head per scale.


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBlock(channels, channels // 2, kernel=1)
        self.expand = ConvBlock(channels // 2, channels, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Backbone(nn.Sequential):
    """Halves the image four times; returns what it sees at stride 16 and at stride 8."""

    def __init__(self) -> None:
        super().__init__(
            ConvBlock(3, 8, kernel=3),
            ConvBlock(8, 16, kernel=3, stride=2),
            Residual(16),
            ConvBlock(16, 32, kernel=3, stride=2),
            Residual(32),
            ConvBlock(32, 64, kernel=3, stride=2),
            Residual(64),
            ConvBlock(64, 96, kernel=3, stride=2),
            Residual(96),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = [images]
        for block in self:
            features.append(block(features[-1]))
        return features[-1], features[-3]


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze = ConvBlock(96, 48, kernel=1)
        self.lateral = ConvBlock(48, 32, kernel=1)
        self.upsample = nn.Upsample(scale_factor=2)
        self.merge = ConvBlock(32 + 64, 32, kernel=1)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        coarse = self.squeeze(coarse)
        context = self.upsample(self.lateral(coarse))
        return coarse, self.merge(torch.cat([context, fine], dim=1))


class Head(nn.Module):
    """The answers of every anchor of one scale, as (images, anchors x rows x columns, answers)."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.block = ConvBlock(channels, 2 * channels, kernel=3)
        self.predict = nn.Conv2d(2 * channels, anchors * ANSWERS, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        answers = self.predict(self.block(features)).unflatten(1, (-1, ANSWERS))
        return answers.movedim(2, -1).flatten(1, 3)


class Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.heads = nn.ModuleList(
            Head(channels, len(scale.anchors))
            for channels, scale in zip((48, 32), SCALES, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.neck(*self.backbone(images))
        return torch.cat([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


# The data: coloured boxes on a noisy ground, and for every anchor what it should have answered.


class Box(NamedTuple):
    """Centre, width and height as parts of the image; the class is the colour channel."""

    x: float
    y: float
    w: float
    h: float
    label: int


class Batch(NamedTuple):
    """Images, and one row per image and anchor of what is expected, with its weight in the loss."""

    images: Tensor
    found: Tensor  # 1 for an anchor that answers for a box
    found_weight: Tensor
    xy: Tensor
    wh: Tensor
    box_weight: Tensor
    label: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        return Batch(*(tensor.to(device, dtype) for tensor in self))

    def split(self, parts: int) -> "list[Batch]":
        chunks = (tensor.chunk(parts) for tensor in self)
        return [Batch(*tensors) for tensors in zip(*chunks, strict=True)]


class Candidate(NamedTuple):
    """An anchor in the cell under the centre of a box; `row` is its row in the batch."""

    fit: float
    row: int
    xy: tuple[float, float]
    wh: tuple[float, float]


def candidates(box: Box, image_size: int) -> list[Candidate]:
    """Every anchor that could answer for the box, in the order in which the heads answer."""
    found = []
    first_row = 0
    for stride, anchors in SCALES:
        cells = image_size // stride
        column, line = int(box.x * cells), int(box.y * cells)
        for w, h in anchors:
            common = min(w, box.w) * min(h, box.h)
            found.append(
                Candidate(
                    fit=common / (w * h + box.w * box.h - common),
                    row=first_row + line * cells + column,
                    xy=(box.x * cells - column, box.y * cells - line),
                    wh=(math.log(box.w / w), math.log(box.h / h)),
                )
            )
            first_row += cells * cells
    return found


def assign(batch: Batch, image: int, box: Box) -> None:
    """The anchor that fits best answers for the box; others that fit well are left in peace."""
    options = candidates(box, batch.images.shape[-1])
    for option in options:
        if option.fit > IGNORE_ABOVE and not batch.found[image, option.row]:
            batch.found_weight[image, option.row] = 0

    best = max(options)
    at = image, best.row
    batch.found[at] = 1
    batch.found_weight[at] = 1
    batch.xy[at] = torch.tensor(best.xy)
    batch.wh[at] = torch.tensor(best.wh)
    batch.box_weight[at] = 2 - box.w * box.h  # the same slip hurts a small box more
    batch.label[at] = F.one_hot(torch.tensor(box.label), CLASSES).float()


def paint(image: Tensor, box: Box) -> None:
    size = image.shape[-1]
    left, right = round((box.x - box.w / 2) * size), round((box.x + box.w / 2) * size)
    top, bottom = round((box.y - box.h / 2) * size), round((box.y + box.h / 2) * size)
    image[box.label, top:bottom, left:right] += 0.7


def random_box(generator: torch.Generator) -> Box:
    x, y, w, h, label = torch.rand(5, generator=generator).tolist()
    w, h = 0.1 + 0.5 * w, 0.1 + 0.5 * h
    return Box(w / 2 + (1 - w) * x, h / 2 + (1 - h) * y, w, h, int(label * CLASSES))


def random_batch(images: int, size: int, seed: int) -> Batch:
    """One to three boxes per image; the same seed gives the same batch."""
    generator = torch.Generator().manual_seed(seed)
    anchors = sum(len(scale.anchors) * (size // scale.stride) ** 2 for scale in SCALES)
    batch = Batch(
        images=torch.rand(images, 3, size, size, generator=generator) * 0.3,
        found=torch.zeros(images, anchors),
        found_weight=torch.full((images, anchors), NO_OBJECT),
        xy=torch.zeros(images, anchors, 2),
        wh=torch.zeros(images, anchors, 2),
        box_weight=torch.zeros(images, anchors, 1),
        label=torch.zeros(images, anchors, CLASSES),
    )
    for image in range(images):
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            box = random_box(generator)
            paint(batch.images[image], box)
            assign(batch, image, box)
    return batch


# The loss: four terms, first for each anchor, then reduced as the convention wants it.


def losses(answers: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Each term before any reduction; zero for an anchor that has no say in it."""
    cross_entropy = partial(F.binary_cross_entropy_with_logits, reduction="none")
    xy, wh, found, label = answers.split([2, 2, 1, CLASSES], dim=-1)
    return {
        "objectness": cross_entropy(found.squeeze(-1), batch.found, weight=batch.found_weight),
        "xy": cross_entropy(xy, batch.xy, weight=batch.box_weight),
        "wh": F.mse_loss(wh, batch.wh, reduction="none") * batch.box_weight,
        "class": cross_entropy(label, batch.label, weight=batch.found.unsqueeze(-1)),
    }


SUM_WEIGHTS = {"objectness": 1.0, "xy": 2.0, "wh": 1.0, "class": 1.0}
MEAN_WEIGHTS = {"objectness": 1.0, "xy": 0.05, "wh": 0.05, "class": 0.5}


class Convention:
    """What a code base decides about the size of a step; here, what is usual in PyTorch."""

    weights: dict[str, float]
    lr: float
    decay: float

    def reduce(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()


class Darknet(Convention):
    """Sums throughout; the learning rate carries 1/batch, the decay carries the batch."""

    weights = SUM_WEIGHTS

    def __init__(self, batch_size: int) -> None:
        self.lr = 0.001 / batch_size
        self.decay = 0.0005 * batch_size

    def reduce(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {name: term.sum() for name, term in losses.items()}


class Gluon(Convention):
    """A loss per image; the trainer divides the summed gradients by the number of images."""

    weights = SUM_WEIGHTS
    lr = 0.001
    decay = 0.0005

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def reduce(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {name: term.flatten(1).sum(dim=1) for name, term in losses.items()}

    def backward(self, loss: Tensor) -> None:
        loss.backward(torch.ones_like(loss))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.div_(self.batch_size)
        optimizer.step()


class Ultralytics(Convention):
    """Means times images; a step that gathers fewer images than 64 decays the less for it."""

    weights = MEAN_WEIGHTS
    lr = 0.01
    nominal_batch_size = 64

    def __init__(self, batch_size: int) -> None:
        self.decay = 0.0005 * batch_size / self.nominal_batch_size

    def reduce(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        images = len(batch.images)
        answering = batch.found.bool()
        return {
            "objectness": losses["objectness"].mean() * images,
            "xy": losses["xy"][answering].mean() * images,
            "wh": losses["wh"][answering].mean() * images,
            "class": losses["class"][answering].mean() * images,
        }


CONVENTIONS = {"darknet": Darknet, "gluon": Gluon, "ultralytics": Ultralytics}


# The training.


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Only the kernels of the convolutions decay; biases and normalisation do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim == 4], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim != 4], "weight_decay": 0.0},
    ]


def train(options: argparse.Namespace) -> Yolo:
    """Trains a fresh model and returns it, with the gradients of its last step still in place."""
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    convention = CONVENTIONS[options.convention](options.batch)

    yolo = Yolo().to(device, dtype)
    model = nn.DataParallel(yolo) if torch.cuda.device_count() > 1 else yolo
    groups = parameter_groups(yolo, convention.decay)
    optimizer = torch.optim.SGD(groups, lr=convention.lr, momentum=0.9)

    for step in range(1, options.steps + 1):
        batch = random_batch(options.batch, options.image_size, seed=1000 * options.seed + step)
        shown = torch.zeros(4, device=device, dtype=dtype)
        optimizer.zero_grad()
        for part in batch.to(device, dtype).split(options.subdivisions):
            reduced = convention.reduce(losses(model(part.images), part), part)
            terms = {name: convention.weights[name] * term for name, term in reduced.items()}
            loss = terms["objectness"] + terms["xy"] + terms["wh"] + terms["class"]
            convention.backward(loss)
            shown += torch.stack([term.detach().sum() for term in terms.values()])
        convention.step(optimizer)
        report(step, dict(zip(terms, (shown / options.batch).tolist(), strict=True)))
    return yolo


def report(step: int, terms: dict[str, float]) -> None:
    """The terms of a step, weighted, per image."""
    columns = terms | {"total": sum(terms.values())}
    print(f"step {step:2}", *(f" {name} {value:#8.4g}" for name, value in columns.items()))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--convention", choices=CONVENTIONS, default="darknet")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--subdivisions", type=int, default=2, help="backward calls per step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=96, help="pixels, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args(arguments)
    if options.image_size % SCALES[0].stride:
        parser.error(f"--image-size {options.image_size} is not a multiple of {SCALES[0].stride}")
    return options


if __name__ == "__main__":
    train(parse())
