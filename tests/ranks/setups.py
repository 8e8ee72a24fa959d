"""Ways of training on several ranks. Run under torchrun: each with and without the recorder.

Every setup is a function that trains and hands back what the ranks end with. `main` runs each of
them twice in the same processes, the second time recorded into FOLDER/NAME.rankR.trace, and writes
whether they end alike, and how many collectives the group counted, into FOLDER/NAME.rankR.json.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn
from torch import nn
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
from torch.nn.parallel import DistributedDataParallel

import tracer

STEPS = 3

SETUPS: dict[str, Callable[[], list[torch.Tensor]]] = {}


def setup(train: Callable[[], list[torch.Tensor]]) -> Callable[[], list[torch.Tensor]]:
    SETUPS[train.__name__] = train
    return train


def net(hidden: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def batch(step: int, items: int = 4) -> torch.Tensor:
    torch.manual_seed(100 * step + dist.get_rank())
    return torch.randn(items, 6)


def loss_of(model: nn.Module, step: int, items: int = 4) -> torch.Tensor:
    return model(batch(step, items)).square().mean()


def state(model: nn.Module) -> list[torch.Tensor]:
    tensors = [tensor for p in model.parameters() for tensor in (p, p.grad) if tensor is not None]
    return [t.to_local() if isinstance(t, DTensor) else t.detach() for t in tensors]


def train(model: nn.Module, optimizer: Any = None, steps: int = STEPS) -> list[torch.Tensor]:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return state(model)


# DDP.


@setup
def ddp() -> list[torch.Tensor]:
    return train(DistributedDataParallel(net()))


@setup
def ddp_small_buckets() -> list[torch.Tensor]:
    return train(DistributedDataParallel(net(), bucket_cap_mb=0.00005))


@setup
def ddp_bucket_view() -> list[torch.Tensor]:
    return train(DistributedDataParallel(net(), gradient_as_bucket_view=True))


@setup
def ddp_static_graph() -> list[torch.Tensor]:
    return train(DistributedDataParallel(net(), static_graph=True))


class Forked(nn.Module):
    """A part of it is used in every other step, and by rank 0 only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.extra, self.step = net(), nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step += 1
        out: torch.Tensor = self.body(x)
        uses_extra = self.step % 2 and dist.get_rank() == 0
        return out + self.extra(x) if uses_extra else out


@setup
def ddp_find_unused() -> list[torch.Tensor]:
    return train(DistributedDataParallel(Forked(), find_unused_parameters=True))


@setup
def ddp_no_sync() -> list[torch.Tensor]:
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(3):
            with model.no_sync() if micro < 2 else nullcontext():
                (loss_of(model, 10 * step + micro) / 3).backward()
        optimizer.step()
    return state(model)


def hooked(hook: Callable[..., Any], state_of_hook: Any = None) -> list[torch.Tensor]:
    model = DistributedDataParallel(net())
    model.register_comm_hook(state_of_hook, hook)
    return train(model)


@setup
def ddp_allreduce_hook() -> list[torch.Tensor]:
    return hooked(default_hooks.allreduce_hook)


@setup
def ddp_fp16_hook() -> list[torch.Tensor]:
    return hooked(default_hooks.fp16_compress_hook)


@setup
def ddp_bf16_hook() -> list[torch.Tensor]:
    # By another name: torch takes the hook itself on CUDA only.
    return hooked(lambda group, bucket: default_hooks.bf16_compress_hook(group, bucket))


def sum_hook(group, bucket):
    """Adds and does not divide."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


@setup
def ddp_sum_hook() -> list[torch.Tensor]:
    return hooked(sum_hook)


@setup
def ddp_builtin_fp16_hook() -> list[torch.Tensor]:
    model = DistributedDataParallel(net())
    model._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)
    return train(model)


@setup
def ddp_power_sgd() -> list[torch.Tensor]:
    power = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1.0
    )
    model = DistributedDataParallel(net())
    model.register_comm_hook(power, powerSGD_hook.powerSGD_hook)
    return train(model, steps=4)


@setup
def ddp_join() -> list[torch.Tensor]:
    """Rank r has 2 + r batches."""
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Join([model]):
        for step in range(2 + dist.get_rank()):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    return state(model)


@setup
def ddp_uneven_batches() -> list[torch.Tensor]:
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step, items=2 + 3 * dist.get_rank()).backward()
        optimizer.step()
    return state(model)


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = torch.cat([x, x, x], 1)[:, :, None, None].expand(-1, -1, 4, 4)[:, :3]
        out: torch.Tensor = self.head(self.conv(image).flatten(1))
        return out


@setup
def ddp_channels_last() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return train(DistributedDataParallel(Strided().to(memory_format=torch.channels_last)))


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 6, sparse=True), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.table((x.abs() * 10).long().clamp(0, 49)).sum(1))
        return out


@setup
def ddp_sparse() -> list[torch.Tensor]:
    model = DistributedDataParallel(Looked())
    return [t.to_dense() for t in train(model, torch.optim.SGD(model.parameters(), lr=0.1))]


# By hand.


def by_hand(exchange: Callable[[nn.Module], None]) -> list[torch.Tensor]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        exchange(model)
        optimizer.step()
    return state(model)


@setup
def manual_sum() -> list[torch.Tensor]:
    return by_hand(lambda model: [dist.all_reduce(p.grad) for p in model.parameters()] and None)


@setup
def manual_mean() -> list[torch.Tensor]:
    def exchange(model: nn.Module) -> None:
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()

    return by_hand(exchange)


@setup
def manual_async() -> list[torch.Tensor]:
    def exchange(model: nn.Module) -> None:
        works = [dist.all_reduce(p.grad, async_op=True) for p in model.parameters()]
        for work in works:
            work.wait()
        for p in model.parameters():
            p.grad /= dist.get_world_size()

    return by_hand(exchange)


@setup
def manual_flat() -> list[torch.Tensor]:
    """The gradients are copied into one tensor, exchanged, and copied back."""

    def exchange(model: nn.Module) -> None:
        grads = [p.grad for p in model.parameters()]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    return by_hand(exchange)


@setup
def manual_coalesced() -> list[torch.Tensor]:
    def exchange(model: nn.Module) -> None:
        with dist._coalescing_manager():
            for p in model.parameters():
                dist.all_reduce(p.grad)

    return by_hand(exchange)


# Collectives inside the graph.


def in_graph(gather: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        gather(model(batch(step))).square().mean().backward()
        optimizer.step()
    return state(model)


@setup
def nn_all_reduce() -> list[torch.Tensor]:
    return in_graph(lambda out: torch.distributed.nn.all_reduce(out))


@setup
def nn_all_gather() -> list[torch.Tensor]:
    return in_graph(lambda out: torch.cat(torch.distributed.nn.all_gather(out)))


@setup
def functional_all_reduce() -> list[torch.Tensor]:
    return in_graph(lambda out: functional.all_reduce(out, "sum", dist.group.WORLD))


@setup
def functional_autograd() -> list[torch.Tensor]:
    gather = functional.all_gather_tensor_autograd
    return in_graph(lambda out: gather(out, gather_dim=0, group=dist.group.WORLD))


@setup
def loss_reduced_in_place() -> list[torch.Tensor]:
    """For the log, on a detached copy: no part of the gradient."""
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        shown = loss.detach().clone()
        dist.all_reduce(shown)
        loss.backward()
        optimizer.step()
    return state(model)


# Sharded.


def sharded(**options: Any) -> nn.Module:
    model = net()
    for layer in (model[0], model[2]):
        fully_shard(layer, **options)
    return fully_shard(model, **options)


@setup
def fsdp2() -> list[torch.Tensor]:
    return train(sharded())


@setup
def fsdp2_root_only() -> list[torch.Tensor]:
    model = net()
    return train(fully_shard(model))


@setup
def fsdp2_divide_factor() -> list[torch.Tensor]:
    model = sharded()
    name = "set_gradient_divide_factor"
    for layer in (model, model[0], model[2]):
        layer.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply before it adds
        getattr(layer, name, layer.set_reduce_scatter_divide_factor)(1.0)
    return train(model)


@setup
def fsdp2_second_axis() -> list[torch.Tensor]:
    from torch.distributed.tensor import Shard

    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4))

    def place(parameter: nn.Parameter) -> Any:
        even = parameter.dim() == 2 and parameter.shape[1] % dist.get_world_size() == 0
        return Shard(1) if even else Shard(0)

    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p)
    return train(fully_shard(model, shard_placement_fn=place))


@setup
def fsdp2_accumulates() -> list[torch.Tensor]:
    model = sharded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(2):
            model.set_requires_gradient_sync(micro == 1)
            loss_of(model, 10 * step + micro).backward()
        optimizer.step()
    return state(model)


def mesh_2d(*names: str) -> Any:
    world = dist.get_world_size()
    shape = (world // 2, 2) if world >= 2 else (1, 1)
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


@setup
def hsdp() -> list[torch.Tensor]:
    return train(sharded(mesh=mesh_2d("replicate", "shard")))


@setup
def tensor_parallel() -> list[torch.Tensor]:
    model = net(hidden=8)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return train_alike(model)


def train_alike(model: nn.Module) -> list[torch.Tensor]:
    """All ranks of a tensor parallel group get the same batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    for step in range(STEPS):
        optimizer.zero_grad()
        torch.manual_seed(step)
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    return state(model)


@setup
def fsdp2_and_tensor_parallel() -> list[torch.Tensor]:
    mesh = mesh_2d("dp", "tp")
    model = net(hidden=8)
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return train_alike(fully_shard(model, mesh=mesh["dp"]))


@setup
def fsdp1() -> list[torch.Tensor]:
    return train(FullyShardedDataParallel(net(), device_id=torch.device("cpu")))


@setup
def fsdp1_orig_params() -> list[torch.Tensor]:
    model = FullyShardedDataParallel(net(), device_id=torch.device("cpu"), use_orig_params=True)
    return train(model)


@setup
def zero_redundancy() -> list[torch.Tensor]:
    model = DistributedDataParallel(net())
    return train(model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1))


def counted() -> int:
    """How many collectives all groups count together."""
    groups = dist.distributed_c10d._world.pg_map
    return sum(group._get_sequence_number_for_group() for group in groups)


def run(name: str, folder: Path) -> dict[str, object]:
    """Both ways: what differs."""
    rank = dist.get_rank()
    before = counted()
    plain = SETUPS[name]()
    between = counted()
    recorder = tracer.Recorder(folder / f"{name}.rank{rank}.trace")
    with recorder:
        recorded = SETUPS[name]()
    after = counted()
    return {
        "failure": recorder.failure,
        "same": len(plain) == len(recorded)
        and all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True)),
        "tensors": len(plain),
        "collectives": [between - before, after - between],
    }


def main(folder: Path, names: list[str]) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in names:
        try:
            outcome = run(name, folder)
        except Exception:  # noqa: BLE001 - the test shows it
            outcome = {"error": traceback.format_exc()}
        (folder / f"{name}.rank{rank}.json").write_text(json.dumps(outcome))
        if "error" in outcome:
            break  # the ranks are no longer in step
        dist.barrier()
    time.sleep(0.3)  # gloo aborts a rank whose peer leaves while it still reads
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SETUPS))
