"""Mistakes of jobs of several ranks, each a few lines, with correct code that looks like it.

Run as `python -m tests.ranks.bugs FOLDER RANK WORLD NAME...` this is one rank of a job.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from tests.ranks.trainings import (
    BATCH,
    Setup,
    Work,
    comm_hook,
    ddp,
    fsdp2,
    global_divisor,
    hooked,
    main,
    mean_hook,
    no_sync,
    step,
    sum_hook,
    tensor_parallel,
    times_world,
    uneven,
    zero_redundancy,
)

Train = Callable[[Work], None]


@dataclass(frozen=True)
class Case:
    """`slug` is the check that must find it, and only this one; None where none may."""

    name: str
    slug: str | None
    train: Train
    calls: int = 1
    items: Callable[[int], int] = lambda rank: BATCH
    factor: float | None = None
    is_shared_batch: bool = False

    @property
    def setup(self) -> Setup:
        return Setup(
            self.name, self.train, None, self.calls, self.items,
            is_shared_batch=self.is_shared_batch,
        )  # fmt: skip


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


def global_mean(work: Work) -> None:
    """A sum over the rank's items, over the count of all ranks, times their number."""
    net = DDP(work.model())
    optimizer = sgd(net)
    count = torch.zeros(())
    for x, y in work.batches():
        count += len(x)
        dist.all_reduce(count)
        total = F.cross_entropy(net(x), y, reduction="sum")
        (total / count.item() * work.world).backward()
    optimizer.step()


def sum_hook_global_divisor(work: Work) -> None:
    net = DDP(work.model())
    net.register_comm_hook(None, sum_hook)
    optimizer = sgd(net)
    for x, y in work.batches():
        (F.cross_entropy(net(x), y, reduction="sum") / (work.world * BATCH)).backward()
    optimizer.step()


def sum_hook_no_sync(work: Work) -> None:
    """Means of micro-batches, one exchange, divided by hand at the end."""
    net = DDP(work.model())
    net.register_comm_hook(None, sum_hook)
    optimizer = sgd(net)
    for number, (x, y) in enumerate(work.batches()):
        with nullcontext() if number == work.setup.calls - 1 else net.no_sync():
            (F.cross_entropy(net(x), y) / work.setup.calls).backward()
    for p in net.parameters():
        assert p.grad is not None
        p.grad /= work.world
    optimizer.step()


def summed_by_hand(work: Work) -> None:
    net = work.model()
    optimizer = sgd(net)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    for p in net.parameters():
        dist.all_reduce(p.grad)
    optimizer.step()


def averaged_by_hand(is_handed_round: bool) -> Train:
    """Models of different seeds, of which rank 0's is handed to all, or is not."""

    def train(work: Work) -> None:
        torch.manual_seed(work.rank)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        for p in net.parameters():
            if is_handed_round:
                dist.broadcast(p.data, 0)
        optimizer = sgd(net)
        for x, y in work.batches():
            F.cross_entropy(net(x), y).backward()
        for p in net.parameters():
            assert p.grad is not None
            dist.all_reduce(p.grad)
            p.grad /= work.world
        optimizer.step()

    return train


def again_by_hand(divisor: bool) -> Train:
    def train(work: Work) -> None:
        net = DDP(work.model())
        optimizer = sgd(net)
        for x, y in work.batches():
            F.cross_entropy(net(x), y).backward()
        for p in net.parameters():
            assert p.grad is not None
            dist.all_reduce(p.grad)
            if divisor:
                p.grad /= work.world
        optimizer.step()

    return train


def divided_again(by_hand: bool, count: int | None = None) -> Train:
    """DDP, and the division by the number of ranks, or by another one, that it has done already."""

    def train(work: Work) -> None:
        net = DDP(work.model())
        optimizer = sgd(net)
        world = work.world if count is None else count
        for x, y in work.batches():
            loss = F.cross_entropy(net(x), y)
            if not by_hand:
                loss = loss / world
            loss.backward()
        for p in net.parameters() if by_hand else ():
            assert p.grad is not None
            p.grad /= world
        optimizer.step()

    return train


def halved(work: Work) -> None:
    """A loss whose weight happens to be one over the number of ranks."""
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, y in work.batches():
        (0.5 * F.cross_entropy(net(x), y)).backward()
    optimizer.step()


def logged_norm(work: Work) -> None:
    """A copy of each gradient is reduced for the log, beside what DDP does."""
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    for p in net.parameters():
        assert p.grad is not None
        dist.all_reduce(p.grad.detach().clone())
    optimizer.step()


def unwrapped(work: Work) -> None:
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, y in work.batches():
        F.cross_entropy(net.module(x), y).backward()
    optimizer.step()


def no_sync_forever(work: Work) -> None:
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, y in work.batches():
        with net.no_sync():
            F.cross_entropy(net(x), y).backward()
    optimizer.step()


def contrast(own: Tensor, every: Tensor) -> Tensor:
    return F.cross_entropy(every @ every.T, torch.arange(len(every)))


def gathered_as_it_is(work: Work) -> None:
    """Without `detach`: gloo's own thread writes into the parts, and what it does is recorded."""
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, _ in work.batches():
        own = F.normalize(net(x), dim=1)
        parts = [torch.zeros_like(own) for _ in range(work.world)]
        dist.all_gather(parts, own)
        parts[work.rank] = own
        contrast(own, torch.cat(parts)).backward()
    optimizer.step()


def gathered(work: Work, with_gradient: bool, scale: bool = False) -> None:
    net = DDP(work.model())
    optimizer = sgd(net)
    for x, _ in work.batches():
        own = F.normalize(net(x), dim=1)
        if with_gradient:
            every = torch.cat(differentiable.all_gather(own))
        else:
            parts = [torch.zeros_like(own) for _ in range(work.world)]
            dist.all_gather(parts, own.detach())
            parts[work.rank] = own
            every = torch.cat(parts)
        loss = contrast(own, every)
        (loss * work.world if scale else loss).backward()
    optimizer.step()


def loss_reduced(how: str) -> Train:
    def train(work: Work) -> None:
        net = DDP(work.model())
        optimizer = sgd(net)
        for x, y in work.batches():
            loss = F.cross_entropy(net(x), y)
            if how.startswith("differentiable"):
                loss = differentiable.all_reduce(loss)
                loss = loss / work.world if how.endswith("mean") else loss
            elif how == "in place":
                dist.all_reduce(loss)
            else:
                dist.all_reduce(loss.detach().clone())
            loss.backward()
        optimizer.step()

    return train


class Branches(nn.Module):
    """The last layer is used on rank 0 only."""

    def __init__(self, rank: int, everywhere: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 4)
        self.uses_last = everywhere or rank == 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.last(x) if self.uses_last else x


def branches(everywhere: bool) -> Train:
    def train(work: Work) -> None:
        step(work, DDP(Branches(work.rank, everywhere), find_unused_parameters=True))

    return train


@comm_hook
def half_hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Any]:
    bucket.buffer().div_(dist.get_world_size())
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


CASES = (
    Case("divided by all, averaged", "global-divisor-averaged", global_divisor, factor=0.5),
    Case("divided by all, times ranks", None, global_mean),
    Case("divided by all, added", None, sum_hook_global_divisor),
    Case("own counts, averaged", "rank-mean-of-means", ddp(), items=uneven, factor=1.25),
    Case("uneven, one divisor", None, global_mean, items=uneven),
    Case("a hook adds means", "comm-hook-not-averaged", hooked(sum_hook), factor=2),
    Case("a hook adds twice", "comm-hook-not-averaged", hooked(sum_hook), calls=2, factor=4),
    Case("a hook divides after", None, hooked(mean_hook)),
    Case("a hook divides before", None, hooked(half_hook)),
    Case("a hook adds, a hand divides", None, sum_hook_no_sync, calls=2),
    Case("a hook adds sums", None, sum_hook_global_divisor),
    Case("a hand adds means", "comm-hook-not-averaged", summed_by_hand, factor=2),
    Case("exchanged again", "averaged-twice", again_by_hand(divisor=False), factor=2),
    Case("exchanged again, divided", "averaged-twice", again_by_hand(divisor=True)),
    Case("averaged, divided by hand", "global-divisor-averaged", divided_again(True), factor=0.5),
    Case("averaged, a share of it", "global-divisor-averaged", divided_again(False), factor=0.5),
    Case("averaged, divided by its calls", None, divided_again(True), calls=2),
    Case("averaged, a loss of weight one half", None, halved),
    Case("copies reduced for the log", None, logged_norm),
    Case("not the wrapped module", "ranks-differ", unwrapped),
    Case("no_sync never left", "ranks-differ", no_sync_forever),
    Case("different seeds", "parameters-differ", averaged_by_hand(is_handed_round=False)),
    Case("different seeds, handed round", None, averaged_by_hand(is_handed_round=True)),
    Case("the same samples", "same-data", ddp(), is_shared_batch=True),
    Case("ZeRO", None, zero_redundancy),
    Case("the default", None, ddp()),
    Case("accumulation with no_sync", None, no_sync, calls=2),
    Case("accumulation that exchanges each call", None, ddp(), calls=2),
    Case("sharded", None, fsdp2),
    Case("tensor parallel", None, tensor_parallel, is_shared_batch=True),
    Case("sums times ranks", None, times_world),
    Case("gathered, detached", "gather-detached", lambda w: gathered(w, False), factor=0.5),
    Case("gathered as it is", "gather-detached", gathered_as_it_is, factor=0.5),
    Case("gathered, differentiable", None, lambda w: gathered(w, True)),
    Case("gathered, detached, times ranks", None, lambda w: gathered(w, False, True)),
    Case("loss reduced, differentiable", "loss-all-reduced", loss_reduced("differentiable")),
    Case("loss reduced to the mean, differentiable", None, loss_reduced("differentiable mean")),
    Case("loss reduced in place", "loss-all-reduced", loss_reduced("in place")),
    Case("loss reduced for the log", None, loss_reduced("detached")),
    Case("used on rank 0 only", "unused-on-some-ranks", branches(everywhere=False)),
    Case("used everywhere", None, branches(everywhere=True)),
)

if __name__ == "__main__":
    main({case.name: case.setup for case in CASES}, sys.argv[1:])
