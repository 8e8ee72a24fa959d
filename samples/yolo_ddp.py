"""One small YOLOv3 under DistributedDataParallel: what becomes of its loss on many ranks.

DDP divides every gradient by the number of ranks before it adds them up. A loss that is a mean over
the images of a rank (``--reduction mean``) comes out as the mean over the images of all ranks: the
step is the same on any number of them. A loss that is a sum (``--reduction sum``) comes out as the
sum over the images of one rank: the step no longer grows with the images that were seen, and a
learning rate that was divided by the batch of all ranks is too small by their number.

Runs on one process, on several, and on a thousand that are not there:

    python cli.py trace samples/yolo_ddp.py
    python cli.py trace --nproc-per-node 4 samples/yolo_ddp.py
    python cli.py trace --world-size 1024 samples/yolo_ddp.py
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from yolo_toy import SUM_WEIGHTS, Yolo, losses, random_batch


def loss_of_images(answers: torch.Tensor, batch: object) -> torch.Tensor:
    """One number per image: all terms, weighted, summed over the anchors."""
    terms = losses(answers, batch)
    return sum(SUM_WEIGHTS[name] * term.flatten(1).sum(dim=1) for name, term in terms.items())


def train(options: argparse.Namespace) -> DistributedDataParallel:
    """Trains a fresh model; every rank sees images of its own."""
    torch.manual_seed(options.seed)
    model = DistributedDataParallel(Yolo())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    rank = dist.get_rank()
    for step in range(1, options.steps + 1):
        batch = random_batch(options.batch, options.image_size, seed=1000 * rank + step)
        optimizer.zero_grad()
        images = loss_of_images(model(batch.images), batch)
        loss = images.mean() if options.reduction == "mean" else images.sum()
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"step {step}  loss of rank 0 per image {images.mean().item():.4g}")
    return model


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reduction", choices=("mean", "sum"), default="mean")
    parser.add_argument("--batch", type=int, default=4, help="images per rank and step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=64, help="pixels, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> DistributedDataParallel:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:  # a single process is a group of one
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = train(options)
    dist.barrier()
    time.sleep(0.2)  # gloo aborts a rank whose peer leaves while it still reads
    dist.destroy_process_group()
    return model


if __name__ == "__main__":
    model = main(parse())
