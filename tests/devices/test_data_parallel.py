"""Torch's own DataParallel on virtual GPUs: values, nodes, devices, order, memory."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import comm, data_parallel, gather, scatter
from torch.utils.data import DataLoader, TensorDataset

from tests.devices.nets import ByHand, ConvNet
from tracer.devices import virtual_gpus


def graph(root: Tensor) -> list[Any]:
    assert root.grad_fn is not None
    seen, waiting = [], [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.append(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def name(node: Any) -> str:
    return str(node.name()).rpartition("::")[2]


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_gradients_are_those_of_replicas_run_by_hand(gpus: int) -> None:
    data = TensorDataset(torch.randn(21, 3, 8, 8), torch.randint(0, 10, (21,)))
    kept: dict[int, Tensor] = {}
    with virtual_gpus(gpus):
        net = ConvNet()
        net.dropout.register_forward_hook(
            lambda module, inputs, output: kept.update({output.device.index: (output != 0).cpu()})
        )
        net.cuda()
        parallel = nn.DataParallel(net)
        by_hand = ByHand(net)
        optimizers = [
            torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
            for n in (net, by_hand.net)
        ]
        sizes = []
        for images, labels in DataLoader(data, batch_size=8, pin_memory=True):
            kept.clear()
            out = parallel(images.cuda(non_blocking=True))
            F.cross_entropy(out, labels.cuda(non_blocking=True)).backward()
            by_hand.loss(images, labels, gpus, list(dict(sorted(kept.items())).values())).backward()

            sizes.append(len(images))
            for ours, theirs in zip(net.parameters(), by_hand.net.parameters(), strict=True):
                assert ours.grad is not None
                assert ours.grad.device == torch.device("cuda:0")
                torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-5, atol=1e-6)
            for ours, theirs in zip(net.buffers(), by_hand.net.buffers(), strict=True):
                torch.testing.assert_close(ours.cpu(), theirs)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    assert sizes == [8, 8, 5]


def test_the_graph_has_the_nodes_of_scatter_broadcast_and_gather(four_gpus: None) -> None:
    net = ConvNet().cuda()
    images = torch.randn(8, 3, 8, 8, device="cuda", requires_grad=True)

    counts = Counter(name(node) for node in graph(nn.DataParallel(net)(images)))

    assert counts["GatherBackward"] == counts["ScatterBackward"] == 1
    assert counts["BroadcastBackward"] == 1
    assert counts["ConvolutionBackward0"] == 4 * 2
    assert counts["AccumulateGrad"] == 1 + len(list(net.parameters()))


def test_every_node_sees_gradients_of_its_own_gpu(four_gpus: None) -> None:
    net = ConvNet(dropout=0.0).cuda()
    images = torch.randn(8, 3, 8, 8, device="cuda", requires_grad=True)
    out = nn.DataParallel(net)(images)
    loss = F.cross_entropy(out, torch.zeros(8, dtype=torch.long, device="cuda"))
    devices: defaultdict[str, set[str]] = defaultdict(set)
    sums: dict[str, list[float]] = {}

    def hook(node: Any) -> Any:
        def note(sent: Any, received: Any) -> None:
            devices[name(node)] |= {str(t.device) for t in received if t is not None}
            sums[name(node)] = [t.double().sum().item() for t in sent if t is not None]

        return note

    nodes = graph(loss)
    for node in nodes:
        node.register_hook(hook(node))
    loss.backward()

    everywhere = {f"cuda:{k}" for k in range(4)}
    assert set(devices) == {name(node) for node in nodes}
    assert devices["ConvolutionBackward0"] == devices["NativeBatchNormBackward0"] == everywhere
    assert devices["BroadcastBackward"] == everywhere
    assert devices["GatherBackward"] == devices["AccumulateGrad"] == {"cuda:0"}
    alone = out.detach().cpu().requires_grad_()
    F.cross_entropy(alone, torch.zeros(8, dtype=torch.long)).backward()
    assert alone.grad is not None
    expected = [chunk.double().sum().item() for chunk in alone.grad.chunk(4)]
    assert sums["GatherBackward"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Was asked to gather along dimension 0:UserWarning")
def test_nested_inputs_and_outputs_reach_their_replicas(two_gpus: None) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("offset", torch.ones(1))

        def forward(self, x: Tensor, extra: dict[str, Tensor]) -> dict[str, Any]:
            assert torch.cuda.current_device() == x.device.index
            assert x.device == self.linear.weight.device == self.offset.device
            return {"out": self.linear(x), "rest": (x.sum(), [extra["z"] + self.offset])}

    model = nn.DataParallel(Nested().cuda())
    out = model(torch.ones(4, 2), extra={"z": torch.zeros(4, 1).cuda()})
    (out["out"].sum() + out["rest"][0].sum()).backward()

    assert out["rest"][0].tolist() == [4, 4]
    assert out["rest"][1][0].device == torch.device("cuda:0")
    assert model.module.linear.weight.grad.tolist() == [[4, 4], [4, 4]]


def test_fewer_chunks_than_gpus_and_other_orders_of_them(four_gpus: None) -> None:
    linear = nn.Linear(2, 2).cuda(1)

    assert nn.DataParallel(linear, [1, 0, 3], output_device=3)(torch.ones(2, 2)).device.index == 3
    linear.cuda(0)
    out = data_parallel(linear, torch.ones(3, 2).cuda(), [0, 2])
    assert out.device.index == 0
    assert out.shape == (3, 2)


def test_sequences_first_are_split_along_the_batch(two_gpus: None) -> None:
    lstm = nn.LSTM(2, 3).cuda()

    out, _ = nn.DataParallel(lstm, dim=1)(torch.randn(5, 4, 2).cuda())

    assert out.shape == (5, 4, 3)


def test_an_output_that_reaches_no_loss_has_zeros_on_its_own_gpu(two_gpus: None) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * self.used, x * self.spare

    model = Two().cuda()
    nn.DataParallel(model)(torch.ones(4, 1))[0].sum().backward()

    assert model.used.grad is not None
    assert model.used.grad.tolist() == [4]
    assert model.spare.grad is None or model.spare.grad.is_cuda


def test_a_model_that_is_not_on_the_first_gpu_is_refused(two_gpus: None) -> None:
    with pytest.raises(RuntimeError, match="must have its parameters and buffers on device cuda:0"):
        nn.DataParallel(nn.Linear(2, 2))(torch.ones(4, 2))


def test_the_error_of_a_replica_says_which_one_it_was(two_gpus: None) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.get_device() == 1:
                raise ValueError("boom")
            return x

    with pytest.raises(ValueError, match="Caught ValueError in replica 1 on device 1"):
        nn.DataParallel(Fails(), [0, 1])(torch.ones(2, 1))


def test_the_primitives_copy_where_they_say(two_gpus: None) -> None:
    x = torch.arange(6.0).view(3, 2)

    parts = comm.scatter(x, [0, 1], chunk_sizes=[1, 2])
    assert [(p.device.index, tuple(p.shape)) for p in parts] == [(0, (1, 2)), (1, (2, 2))]
    assert torch.equal(comm.gather(parts, 0, 1).cpu(), x)
    assert comm.gather(parts, 0, "cpu").device.type == "cpu"
    copies = comm.broadcast(x.cuda(), [0, 1])
    assert copies[1].device.index == 1
    assert torch.equal(comm.reduce_add(list(copies), 1).cpu(), 2 * x)
    coalesced = comm.broadcast_coalesced([x.cuda(), x.cuda().long()], [0, 1])
    assert (coalesced[1][1].dtype, coalesced[1][1].device.index) == (torch.long, 1)
    sums = comm.reduce_add_coalesced([[t.float() for t in copy] for copy in coalesced], 0)
    assert torch.equal(sums[0].cpu(), 2 * x)


@pytest.mark.filterwarnings("ignore:Using -1 to represent CPU:FutureWarning")  # torch's own code
def test_complex_numbers_are_scattered_and_gathered(two_gpus: None) -> None:
    z = torch.view_as_complex(torch.ones(4, 2)).requires_grad_()

    (gather(scatter(z, [0, 1]), 0).abs() ** 2).sum().backward()

    torch.testing.assert_close(z.grad, 2 * z.detach())


def steps_on_eight_gpus() -> bytes:
    torch.manual_seed(7)
    with virtual_gpus(8):
        net = ConvNet().cuda()
        parallel = nn.DataParallel(net)
        optimizer = torch.optim.Adam(net.parameters())
        images, labels = torch.randn(19, 3, 8, 8).cuda(), torch.randint(0, 10, (19,)).cuda()
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(parallel(images), labels).backward()
            optimizer.step()
        return b"".join(p.detach().cpu().numpy().tobytes() for p in net.state_dict().values())


def test_twenty_steps_on_eight_gpus_are_bit_identical_in_every_run() -> None:
    assert len({steps_on_eight_gpus() for _ in range(3)}) == 1


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def growth(steps: int) -> tuple[int, int, float]:
    """More tensors, counted bytes and resident megabytes after all steps than after a fifth."""
    with virtual_gpus(4):
        net = ConvNet().cuda()
        parallel = nn.DataParallel(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        images, labels = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
        seen = []
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            F.cross_entropy(parallel(images.cuda()), labels.cuda()).backward()
            optimizer.step()
            if step in (steps // 5, steps):
                gc.collect()
                alive = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
                counted = sum(torch.cuda.memory_allocated(k) for k in range(4))
                seen.append((alive, counted, resident()))
    (tensors, bytes_, memory), (more_tensors, more_bytes, more_memory) = seen
    return more_tensors - tensors, more_bytes - bytes_, more_memory - memory


def test_fifty_steps_leave_nothing_behind() -> None:
    tensors, counted, _ = growth(50)

    assert (tensors, counted) == (0, 0)


@pytest.mark.sweep
def test_a_thousand_steps_take_no_more_memory() -> None:
    tensors, counted, memory = growth(1000)

    assert (tensors, counted) == (0, 0)
    assert memory < 12
