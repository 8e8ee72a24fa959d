"""Ways to train on several ranks, a few lines each, and the item weights that they come to.

Every setup trains the same small model on the same samples. `weight` says what one sample of a rank
and call must weigh in the gradient that is consumed: from it a single process makes the reference.
Run as `python -m tests.ranks.trainings FOLDER RANK WORLD NAME...` this is one rank of a job.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim.optimizer import register_optimizer_step_pre_hook

import tracer
from tracer.record.simulation import Simulation
from tracer.runfiles import file_of_rank
from tracer.semantics.effects import Exact

FEATURES, HIDDEN, CLASSES = 6, 8, 4
BATCH = 4
CLIP = 0.05

EQUAL = "EQUAL_RANKS"
"""Set in the environment where all ranks are to get the samples of rank 0."""

SIMULATED = "SIMULATED_RANKS"
"""Set where one process is to stand for all ranks."""

Weight = Callable[[int, int, int], Exact]
"""Of one sample of rank and call, in a world of so many ranks."""


@dataclass(frozen=True)
class Setup:
    """`train` runs on every rank; `items` and `weight` are what is expected of each call."""

    name: str
    train: Callable[[Work], None]
    weight: Weight | None
    calls: int = 1
    items: Callable[[int], int] = lambda rank: BATCH
    worlds: tuple[int, ...] = (1, 2, 4)
    error: float = 1e-6
    is_shared_batch: bool = False
    """Whether all ranks work on the samples of rank 0: tensor parallel."""
    beside: int = 1
    """How many ranks one after the other work on the same samples: tensor parallel on a mesh."""
    contributes: Callable[[int, int], bool] = lambda rank, call: True
    consumes: Callable[[int], bool] = lambda rank: True
    step: int = 1
    told: Callable[[int], str] = lambda world: "mean"
    """What the line of the ranks says."""
    rows: Callable[[int, int], tuple[int, Fraction]] | None = None
    """Where items are not the samples of a rank: how many its loss has, and what each weighs."""
    whole: Callable[[nn.Module, int], Tensor] | None = None
    """The loss that a single process must have, where samples of several ranks meet in an item."""
    is_alone: bool = False
    """Whether each rank consumes what only its own samples gave."""

    def source(self, rank: int) -> int:
        """Whose samples a rank works on."""
        return 0 if self.is_shared_batch else rank // self.beside

    def mates(self, world: int, rank: int) -> list[int]:
        """The ranks whose contributions meet in the gradient of one."""
        if self.is_alone:
            return [rank]
        step = world if self.is_shared_batch else self.beside
        return [other for other in range(world) if other % step == rank % step]

    @property
    def folder(self) -> str:
        return re.sub("[^a-z0-9_A-Z]+", "-", self.name)


@dataclass
class Work:
    """What a setup needs on one rank."""

    rank: int
    world: int
    setup: Setup

    @property
    def is_last(self) -> bool:
        return self.rank == self.world - 1

    def model(self) -> nn.Sequential:
        return model()

    def batch(self, call: int = 0, rank: int | None = None) -> tuple[Tensor, Tensor]:
        own = self.setup.source(self.rank if rank is None else rank)
        return samples(own, call, self.setup.items(own))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for call in range(self.setup.calls):
            yield self.batch(call)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))


def samples(rank: int, call: int, count: int) -> tuple[Tensor, Tensor]:
    """The same for the job and for the reference; of equal ranks those of rank 0."""
    rank = 0 if EQUAL in os.environ else rank
    random = torch.Generator().manual_seed(1000 * rank + call)
    x = torch.randn(count, FEATURES, generator=random)
    return x, torch.randint(CLASSES, (count,), generator=random)


def reference(setup: Setup, world: int, own: int = 0) -> dict[str, Tensor]:
    """The gradient that must be consumed, from one process: each sample times its weight."""
    assert setup.weight is not None
    net = model()
    total = torch.zeros(()) if setup.whole is None else setup.whole(net, world)
    for rank in setup.mates(world, own) if setup.whole is None else ():
        for call in range(setup.calls):
            if not setup.contributes(rank, call):
                continue
            x, y = samples(setup.source(rank), call, setup.items(rank))
            weight = float(setup.weight(world, rank, call))
            total = total + weight * F.cross_entropy(net(x), y, reduction="sum")
    total.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def step(work: Work, net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """One step over all batches of the rank."""
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    optimizer.step()


# DistributedDataParallel.


def ddp(**options: Any) -> Callable[[Work], None]:
    return lambda work: step(work, DDP(work.model(), **options))


def static_graph(work: Work) -> None:
    """A static graph takes one iteration to be known; the second is like any other."""
    net = DDP(work.model(), static_graph=True)
    step(work, net)


def no_sync(work: Work) -> None:
    net = DDP(work.model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = list(work.batches())
    for number, (x, y) in enumerate(batches):
        is_last = number == len(batches) - 1
        with nullcontext() if is_last else net.no_sync():
            (F.cross_entropy(net(x), y) / len(batches)).backward()
    optimizer.step()


def hooked(hook: Callable[..., Any]) -> Callable[[Work], None]:
    def train(work: Work) -> None:
        net = DDP(work.model())
        net.register_comm_hook(None, hook)
        step(work, net)

    return train


def comm_hook(hook: Callable[..., Any]) -> Callable[..., Any]:
    """DDP compares annotations with classes, and ours are texts."""
    hook.__annotations__ = {}
    return hook


@comm_hook
def sum_hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


@comm_hook
def mean_hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0].div_(dist.get_world_size()))


@comm_hook
def bf16_hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Torch's own asks for NCCL by its name, but runs on gloo."""
    return default_hooks.bf16_compress_hook(None, bucket)  # type: ignore[arg-type]


def power_sgd(work: Work) -> None:
    net = DDP(work.model())
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=0.5
    )
    net.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    for _ in range(2):  # the first iterations are plain all-reduces
        x, y = work.batch()
        F.cross_entropy(net(x), y).backward()
    net.zero_grad()
    step(work, net)


def join(work: Work) -> None:
    """The last ranks have no second batch: their shadows give nothing, and the divisor stays."""
    net = DDP(work.model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with Join([net]):
        for call in range(2 if work.rank == 0 else 1):
            optimizer.zero_grad()
            x, y = work.batch(call)
            F.cross_entropy(net(x), y).backward()
            optimizer.step()


def times_world(work: Work) -> None:
    net = DDP(work.model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        (F.cross_entropy(net(x), y, reduction="sum") * work.world).backward()
    optimizer.step()


def global_divisor(work: Work) -> None:
    net = DDP(work.model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        (F.cross_entropy(net(x), y, reduction="sum") / (work.world * BATCH)).backward()
    optimizer.step()


def zero_redundancy(work: Work) -> None:
    net = DDP(work.model())
    step(work, net, ZeroRedundancyOptimizer(net.parameters(), torch.optim.SGD, lr=0.1))


# Collectives that autograd goes through.


def in_graph(loss: Callable[[Work, nn.Module], Tensor], wrap: Any = DDP) -> Callable[[Work], None]:
    def train(work: Work) -> None:
        net = wrap(work.model())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        loss(work, net).backward()
        optimizer.step()

    return train


def labels(world: int) -> Tensor:
    return torch.cat([samples(rank, 0, BATCH)[1] for rank in range(world)])


def gathered_loss(work: Work, net: nn.Module) -> Tensor:
    outputs = torch.cat(differentiable.all_gather(net(work.batch()[0])))
    return F.cross_entropy(outputs, labels(work.world))


def gathered_functional(work: Work, net: nn.Module) -> Tensor:
    outputs = functional.all_gather_tensor_autograd(net(work.batch()[0]), 0, dist.group.WORLD)
    return F.cross_entropy(outputs, labels(work.world))


def reduced_loss(work: Work, net: nn.Module) -> Tensor:
    x, y = work.batch()
    return differentiable.all_reduce(F.cross_entropy(net(x), y))


def reduced_mean(work: Work, net: nn.Module) -> Tensor:
    return reduced_loss(work, net) / work.world


def reduced_features(work: Work, net: nn.Module) -> Tensor:
    x, y = work.batch()
    return F.cross_entropy(differentiable.all_reduce(net(x)), y)


def scattered_functional(work: Work, net: nn.Module) -> Tensor:
    """Each rank gets the sum of the outputs of all, as with an all-reduce."""
    x, y = work.batch()
    every = torch.cat([net(x)] * work.world)
    outputs = functional.reduce_scatter_tensor_autograd(every, "sum", 0, dist.group.WORLD)
    return F.cross_entropy(outputs, y)


def scattered_sums(work: Work, net: nn.Module) -> Tensor:
    x, y = work.batch()
    out = net(x)
    outputs = differentiable.reduce_scatter(torch.empty_like(out), [out] * work.world)
    return F.cross_entropy(outputs, y)


def summed_outputs(net: nn.Module, world: int) -> Tensor:
    outputs = torch.stack([net(samples(rank, 0, BATCH)[0]) for rank in range(world)]).sum(0)
    return F.cross_entropy(outputs.repeat(world, 1), labels(world))


def redistributed(work: Work, net: nn.Module) -> Tensor:
    """Each rank sends a part of its outputs to each."""
    x, _ = work.batch()
    parts = list(net(x).chunk(work.world))
    outputs = differentiable.all_to_all([torch.empty_like(part) for part in parts], parts)
    return F.cross_entropy(torch.cat(outputs), redistributed_labels(work))


def redistributed_labels(work: Work) -> Tensor:
    every = labels(work.world).view(work.world, work.world, -1)
    return every[:, work.rank].flatten()


def redistributed_functional(work: Work, net: nn.Module) -> Tensor:
    x, _ = work.batch()
    sizes = [BATCH // work.world] * work.world
    out = net(x)
    outputs = functional.all_to_all_single_autograd(out, sizes, sizes, dist.group.WORLD)
    return F.cross_entropy(outputs, redistributed_labels(work))


def of_rank_0(work: Work, net: nn.Module) -> Tensor:
    x, _ = work.batch()
    return F.cross_entropy(differentiable.broadcast(net(x), 0), samples(0, 0, BATCH)[1])


# By hand.


def by_hand(work: Work) -> None:
    net = work.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    for p in net.parameters():
        dist.all_reduce(p.grad)
        p.grad /= work.world
    optimizer.step()


def by_hand_flat(work: Work) -> None:
    """One all-reduce of all gradients, copied into one tensor and back."""
    net = work.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    flat /= work.world
    for grad, mean in zip(grads, torch._utils._unflatten_dense_tensors(flat, grads), strict=True):
        grad.copy_(mean)
    optimizer.step()


def gathered_by_hand(work: Work) -> None:
    net = work.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    for p in net.parameters():
        assert p.grad is not None
        parts = [torch.empty_like(p.grad) for _ in range(work.world)]
        dist.all_gather(parts, p.grad)
        p.grad.copy_(torch.stack(parts).mean(0))
    optimizer.step()


def reduced_and_broadcast(work: Work) -> None:
    """To rank 0, which divides, and from there to all."""
    net = work.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in work.batches():
        F.cross_entropy(net(x), y).backward()
    for p in net.parameters():
        assert p.grad is not None
        dist.reduce(p.grad, 0)
        if work.rank == 0:
            p.grad /= work.world
        dist.broadcast(p.grad, 0)
    optimizer.step()


# Sharded parameters.


def clipped(wrap: Callable[[nn.Sequential], Any]) -> Callable[[Work], None]:
    def train(work: Work) -> None:
        net = wrap(work.model())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x, y in work.batches():
            F.cross_entropy(net(x), y).backward()
        if isinstance(net, FullyShardedDataParallel):
            net.clip_grad_norm_(CLIP)
        else:
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()

    return train


def in_one(net: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(net, device_id=torch.device("cpu"))


def clipped_mean(world: int, rank: int, call: int) -> float:
    """The mean, times the coefficient of the clip: of what a single process makes."""
    own = reference(Setup("", ddp(), mean), world).values()
    return (
        float(mean(world, rank, call))
        * CLIP
        / (float(torch.cat([g.flatten() for g in own]).norm()) + 1e-6)
    )


def fsdp2(work: Work) -> None:
    net = work.model()
    fully_shard(net)
    step(work, net)


def fsdp2_layers(work: Work) -> None:
    net = work.model()
    for layer in (net[0], net[2]):
        fully_shard(layer)
    fully_shard(net)
    step(work, net)


def fsdp2_divides_by_2(work: Work) -> None:
    net = fully_shard(work.model())
    net.set_gradient_divide_factor(2.0)
    net.set_force_sum_reduction_for_comms(True)  # gloo has no PREMUL_SUM
    step(work, net)


def fsdp2_accumulates(work: Work) -> None:
    net = fully_shard(work.model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = list(work.batches())
    for number, (x, y) in enumerate(batches):
        net.set_requires_gradient_sync(number == len(batches) - 1)
        (F.cross_entropy(net(x), y) / len(batches)).backward()
    optimizer.step()


def hsdp(work: Work) -> None:
    mesh = init_device_mesh("cpu", (2, work.world // 2), mesh_dim_names=("dp", "shard"))
    net = work.model()
    fully_shard(net, mesh=mesh)
    step(work, net)


def fsdp1(use_orig_params: bool) -> Callable[[Work], None]:
    def train(work: Work) -> None:
        cpu = torch.device("cpu")
        net = FullyShardedDataParallel(work.model(), device_id=cpu, use_orig_params=use_orig_params)
        step(work, net)

    return train


def tensor_parallel(work: Work) -> None:
    mesh = init_device_mesh("cpu", (work.world,), mesh_dim_names=("tp",))
    net = parallelize_module(work.model(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    step(work, net)


def on_a_mesh(work: Work) -> None:
    """Tensor parallel in pairs, which are sharded and averaged over their copies."""
    mesh = init_device_mesh("cpu", (work.world // 2, 2), mesh_dim_names=("dp", "tp"))
    net = parallelize_module(
        work.model(), mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    fully_shard(net, mesh=mesh["dp"])
    step(work, net, torch.optim.SGD(net.parameters(), lr=0.1, foreach=False))


def mean(world: int, rank: int, call: int) -> Fraction:
    return Fraction(1, BATCH * world)


def of_every_rank(world: int, rank: int) -> tuple[int, Fraction]:
    """Every rank has the samples of all in its loss, and the losses are averaged."""
    return BATCH * world, Fraction(1, BATCH * world * world)


def mean_of_two(world: int, rank: int, call: int) -> Fraction:
    return Fraction(1, 2 * BATCH * world)


def uneven(rank: int) -> int:
    return BATCH + rank


SETUPS = (
    Setup("ddp", ddp(), mean),
    Setup("ddp, gradient_as_bucket_view", ddp(gradient_as_bucket_view=True), mean),
    Setup("ddp, static_graph", static_graph, mean),
    Setup("ddp, find_unused_parameters", ddp(find_unused_parameters=True), mean),
    Setup("ddp, no_sync", no_sync, mean_of_two, calls=2),
    Setup("ddp, two synchronised calls", ddp(), mean, calls=2),
    Setup("ddp, allreduce_hook", hooked(default_hooks.allreduce_hook), mean),
    Setup("ddp, fp16_compress_hook", hooked(default_hooks.fp16_compress_hook), mean, error=5e-3),
    Setup("ddp, bf16_compress_hook", hooked(bf16_hook), mean, error=4e-2),
    Setup("ddp, powerSGD_hook", power_sgd, None, worlds=(2, 4), told=lambda world: "?"),
    Setup(
        "ddp, a hook that adds", hooked(sum_hook), lambda w, r, c: Fraction(1, BATCH),
        told=lambda world: "SUM",
    ),
    Setup("ddp, a hook that adds and divides", hooked(mean_hook), mean),
    Setup(
        "ddp, Join", join, mean, calls=2, contributes=lambda rank, call: (rank, call) == (0, 1),
        consumes=lambda rank: rank == 0, step=2, worlds=(2, 4),
    ),
    Setup(
        "ddp, uneven batches", ddp(), lambda w, r, c: Fraction(1, uneven(r) * w), items=uneven,
        told=lambda world: "UNEQUAL",
    ),
    Setup("ddp, sum x ranks", times_world, lambda w, r, c: Fraction(1)),
    Setup("ddp, sum / all items", global_divisor, lambda w, r, c: Fraction(1, BATCH * w * w)),
    Setup("ddp, ZeroRedundancyOptimizer", zero_redundancy, mean),
    Setup("ddp, all_gather in the graph", in_graph(gathered_loss), mean, rows=of_every_rank),
    Setup("ddp, functional all_gather", in_graph(gathered_functional), mean, rows=of_every_rank),
    Setup(
        "ddp, all_reduce of the loss", in_graph(reduced_loss), lambda w, r, c: Fraction(1, BATCH)
    ),
    Setup("ddp, all_reduce of the loss / ranks", in_graph(reduced_mean), mean),
    Setup(
        "ddp, all_reduce in the graph", in_graph(reduced_features), mean, whole=summed_outputs
    ),
    Setup("ddp, reduce_scatter in the graph", in_graph(scattered_sums), mean, whole=summed_outputs),
    Setup(
        "ddp, functional reduce_scatter", in_graph(scattered_functional), mean,
        whole=summed_outputs,
    ),
    Setup("ddp, all_to_all in the graph", in_graph(redistributed), mean),
    Setup("ddp, functional all_to_all", in_graph(redistributed_functional), mean),
    Setup(
        "ddp, broadcast in the graph", in_graph(of_rank_0), lambda w, r, c: Fraction(1, BATCH),
        contributes=lambda rank, call: rank == 0,
        rows=lambda world, rank: (BATCH, Fraction(1, BATCH * world)),
    ),
    Setup(
        "all_gather in the graph, nothing else", in_graph(gathered_loss, lambda net: net),
        lambda w, r, c: Fraction(1, BATCH), is_alone=True, told=lambda world: "sum",
        rows=lambda world, rank: (BATCH * world, Fraction(1, BATCH * world)),
    ),
    Setup("all_reduce by hand", by_hand, mean),
    Setup("all_reduce by hand, flat", by_hand_flat, mean),
    Setup("all_gather by hand", gathered_by_hand, mean),
    Setup("reduce and broadcast by hand", reduced_and_broadcast, mean),
    Setup("ddp, clipped", clipped(DDP), clipped_mean),
    Setup("fsdp2, clipped", clipped(fully_shard), clipped_mean),
    Setup("fsdp1, clipped", clipped(in_one), clipped_mean),
    Setup("fsdp2", fsdp2, mean),
    Setup("fsdp2, layer by layer", fsdp2_layers, mean),
    Setup(
        # On a single rank torch 2.13 divides twice: instead of an exchange, and after it.
        "fsdp2, divides by 2", fsdp2_divides_by_2,
        lambda w, r, c: Fraction(1, (2 if w > 1 else 4) * BATCH),
        told=lambda world: "mean" if world == 2 else "SUM",
    ),
    Setup("fsdp2, accumulates", fsdp2_accumulates, mean_of_two, calls=2),
    Setup("hsdp", hsdp, mean, worlds=(2, 4)),
    Setup("fsdp1", fsdp1(use_orig_params=False), mean),
    Setup("fsdp1, use_orig_params", fsdp1(use_orig_params=True), mean),
    Setup(
        "tensor parallel", tensor_parallel, lambda w, r, c: Fraction(1, BATCH),
        is_shared_batch=True, worlds=(2, 4), told=lambda world: "one",
    ),
    Setup(
        "fsdp2 and tensor parallel", on_a_mesh, lambda w, r, c: Fraction(2, BATCH * w),
        beside=2, worlds=(4,),
    ),
)  # fmt: skip

BY_NAME = {setup.name: setup for setup in SETUPS}


def whole(grads: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients of all parameters, put together where ranks hold parts of them."""
    shapes = [p.shape for p in model().parameters()]
    known = [grad for grad in grads if grad is not None]
    if any(isinstance(grad, DTensor) for grad in known):
        return [grad.full_tensor() for grad in known if isinstance(grad, DTensor)]
    if [grad.shape for grad in known] == shapes:
        return known
    own = torch.cat([grad.flatten() for grad in known]) if known else torch.zeros(0)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    flat = torch.cat(parts)
    sizes = [shape.numel() for shape in shapes]
    cut = flat[: sum(sizes)].split(sizes)
    return [part.reshape(shape) for part, shape in zip(cut, shapes, strict=True)]


def run(folder: Path, work: Work) -> None:
    """Record a setup on this rank, and keep the gradients that its last optimizer step consumed."""
    output = folder / work.setup.folder
    output.mkdir(exist_ok=True)
    consumed: list[list[Tensor | None]] = []
    taking: dict[str, torch.optim.Optimizer] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if taking.setdefault("optimizer", optimizer) is optimizer:  # ZeRO's inner one comes after
            grads = [None if p.grad is None else p.grad.detach() for p in params]
            consumed.append([None if grad is None else grad.clone() for grad in grads])

    simulation = Simulation(work.world) if SIMULATED in os.environ else None
    handle = register_optimizer_step_pre_hook(keep)
    try:
        with tracer.Recorder(file_of_rank(output / "run.trace", work.rank), simulation=simulation):
            work.setup.train(work)
    finally:
        handle.remove()
    if simulation is not None:
        return
    torch.save(whole(consumed[-1]), output / f"consumed.{work.rank}")


def main(known: Mapping[str, Setup], arguments: Sequence[str]) -> None:
    """One rank of a job: FOLDER RANK WORLD NAME..."""
    folder, rank, world = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    warnings.simplefilter("ignore")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    if SIMULATED in os.environ:
        Simulation(world).start()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    for name in arguments[3:]:
        try:
            run(folder, Work(rank, world, known[name]))
        except Exception as error:
            raise RuntimeError(f"{name} on rank {rank} of {world}") from error
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(BY_NAME, sys.argv[1:])
