"""What DataParallel does in all its variants, as the recorder sees it on virtual GPUs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import data_parallel

import tracer
from tests.devices.nets import ConvNet
from tracer.analysis.balance import check_balance
from tracer.devices import virtual_gpus
from tracer.events import Call, Module, Node, Structure
from tracer.tracefile import Trace

Training = tuple[Callable[[], Any], Iterable[Tensor]]
"""What to do again and again, and the leaves whose `.grad` that fills."""


def gradients(gpus: int, make: Callable[[], Training], path: Path | None = None) -> list[Tensor]:
    """The gradients that three iterations leave behind, recorded where there is a path."""
    torch.manual_seed(5)
    with virtual_gpus(gpus):
        step, leaves = make()
        recorder = tracer.Recorder(path) if path else None
        if recorder:
            recorder.start()
        for _ in range(3):
            step()
        if recorder:
            recorder.stop()
            assert recorder.failure == ""
        return [leaf.grad.cpu().clone() for leaf in leaves if leaf.grad is not None]


@contextmanager
def recorded(
    folder: Path,
    gpus: int,
    make: Callable[[], Training],
    structures: int = 1,
) -> Iterator[Trace]:
    """The trace, after the checks that hold for every variant."""
    alone = gradients(gpus, make)
    watched = gradients(gpus, make, folder / "x.trace")
    assert alone
    assert len(alone) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    with tracer.load(folder / "x.trace") as trace:
        report = check_balance(trace)
        assert report.imbalances == report.hooked == ()
        assert report.unchecked == 0
        assert report.buffers >= 3
        stored = {graph(trace, call) for call in trace.calls}
        assert len(stored) == structures
        yield trace


def graph(trace: Trace, call: Call | None = None) -> Structure:
    structure = trace.layout((call or trace.calls[0]).layout).structure
    assert structure is not None
    return trace.structure(structure)


def module_of(trace: Trace, node: Node) -> Module | None:
    return None if node.module is None else trace.modules[node.module]


def replicas(trace: Trace) -> dict[int | None, Counter[tuple[str, str, str]]]:
    """For each replica how often (operation, module, "function:line") occurs in the first call.

    Only what was done in some `forward` written in these tests: the work of the replicas.
    """
    found: defaultdict[int | None, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for node in graph(trace).nodes:
        source = None if node.source is None else trace.sources[node.source]
        if source is None or not source.function.endswith(".forward"):
            continue
        module = module_of(trace, node)
        assert module is not None, f"{node} is in no module"
        path = module.path
        if module.replica is None:
            path = path.removeprefix("module").removeprefix(".")
        where = f"{source.function}:{source.line}"
        found[module.replica][node.name, path, where] += 1
    return dict(found)


def names(trace: Trace) -> Counter[str]:
    return Counter(node.name for node in graph(trace).nodes)


def devices(trace: Trace) -> set[str]:
    return {form.device for form in trace.forms.values()}


class Linear(nn.Module):
    """One line with one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Captured(nn.Module):
    """Knows a tensor without owning it: each replica copies it for itself."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = w

    def forward(self, x: Tensor) -> Tensor:
        return self.w.cuda(x.device) * x * (1 + x.device.index)


def convolutions(images: int) -> Training:
    net = ConvNet().cuda()
    parallel = nn.DataParallel(net)
    data = torch.randn(images, 3, 8, 8)
    labels = torch.randint(0, 10, (images,))

    def step() -> None:
        F.cross_entropy(parallel(data.cuda()), labels.cuda()).backward()

    return step, net.parameters()


def linear(**options: Any) -> Training:
    net = Linear().cuda(options.get("device_ids", [0])[0])
    parallel = nn.DataParallel(net, **options)
    data = torch.randn(5, 3)
    return lambda: parallel(data).square().mean().backward(), net.parameters()


@pytest.mark.parametrize("gpus", [2, 4])
def test_each_replica_is_told_as_the_one_net_on_one_gpu(tmp_path: Path, gpus: int) -> None:
    with recorded(tmp_path, 1, lambda: convolutions(8)) as trace:
        (alone,) = replicas(trace).values()
        assert set(replicas(trace)) == {None}
        assert names(trace)["BroadcastBackward"] == 0
        assert {name for name, path, _ in alone if path == "norm2"} == {"NativeBatchNormBackward0"}
        assert {path for _, path, _ in alone} == {
            "", "conv1", "norm1", "conv2", "norm2", "dropout", "head"
        }  # fmt: skip
    (tmp_path / "x.trace").unlink()

    with recorded(tmp_path, gpus, lambda: convolutions(8)) as trace:
        found = replicas(trace)
        counts = names(trace)
        buffers = {(buffer.name, buffer.device) for buffer in trace.buffers.values()}

    assert found == dict.fromkeys(range(gpus), alone)
    assert counts["GatherBackward"] == counts["BroadcastBackward"] == 1
    assert len(buffers) == 9
    assert ("module.norm1.weight", "cuda:0") in buffers


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_a_ragged_last_batch_repeats_a_layout_of_its_own(tmp_path: Path, gpus: int) -> None:
    def make() -> Training:
        net = ConvNet().cuda()
        parallel = nn.DataParallel(net)
        data, labels = torch.randn(21, 3, 8, 8).cuda(), torch.randint(0, 10, (21,)).cuda()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step() -> None:
            for images, wanted in zip(data.split(8), labels.split(8), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(parallel(images), wanted).backward()
                optimizer.step()

        return step, net.parameters()

    # Five images on four GPUs are chunks of 2, 2 and 1: a replica less, and so another graph.
    with recorded(tmp_path, gpus, make, structures=2 if gpus == 4 else 1) as trace:
        layouts = [call.layout for call in trace.calls]
        forms = {form.shape[0] for form in trace.forms.values() if len(form.shape) == 4}

    whole, ragged = layouts[0], layouts[2]
    assert layouts == [whole, whole, ragged] * 3
    assert whole != ragged
    assert {1: {8, 5}, 2: {4, 3, 2}, 4: {2, 1}}[gpus] <= forms


def test_the_buffers_of_batch_norm_are_those_of_each_replica(tmp_path: Path) -> None:
    """Statistics are per replica: the gradients that leave the batch norms differ between them."""
    with recorded(tmp_path, 2, lambda: convolutions(6)) as trace:
        structure, layout = graph(trace), trace.layout(trace.calls[0].layout)
        rows = trace.measurements(trace.calls[0])
        sums: dict[int | None, float] = {}
        for sent in layout.contributions:
            edge = structure.edges[sent.edge]
            node = structure.nodes[edge.sender]
            module = module_of(trace, node)
            if node.name == "NativeBatchNormBackward0" and edge.output == 0:
                assert module is not None
                assert sent.row is not None
                if module.path == "norm2":
                    assert trace.forms[sent.form].device == f"cuda:{module.replica}"
                    sums[module.replica] = rows[sent.row].norm
                    # what passes back through a normalized batch adds up to nothing, per replica
                    assert abs(rows[sent.row].sum) < 1e-5 * rows[sent.row].elements

    assert set(sums) == {0, 1}
    assert sums[0] != sums[1]


def check_sums_of_replicas(trace: Trace, copies: int, parameters: list[str]) -> None:
    """Each copy of each parameter is an edge into `BroadcastBackward`, and they add up."""
    for call in trace.calls:
        structure, layout = graph(trace, call), trace.layout(call.layout)
        rows = trace.measurements(call)
        (reducer,) = (n.index for n in structure.nodes if n.name == "BroadcastBackward")
        arriving: defaultdict[int, dict[int, tuple[float, ...]]] = defaultdict(dict)
        leaving: dict[int, tuple[float, ...]] = {}
        leaf: dict[int, str] = {}
        for sent in layout.contributions:
            edge = structure.edges[sent.edge]
            if reducer not in (edge.sender, edge.receiver):
                continue
            assert sent.row is not None
            fingerprint = rows[sent.row].fingerprint
            if edge.receiver == reducer:
                replica, parameter = divmod(edge.input, len(parameters))
                module = module_of(trace, structure.nodes[edge.sender])
                assert module is not None
                assert module.replica == replica
                assert trace.forms[sent.form].device == f"cuda:{replica}"
                assert replica not in arriving[parameter]
                arriving[parameter][replica] = fingerprint
            else:
                buffer = structure.nodes[edge.receiver].buffer
                assert buffer is not None
                assert trace.forms[sent.form].device == "cuda:0"
                leaving[edge.output] = fingerprint
                leaf[edge.output] = trace.buffers[buffer].name

        assert [leaf[place] for place in sorted(leaf)] == parameters
        assert set(arriving) == set(leaving)
        for place, parts in arriving.items():
            assert set(parts) == set(range(copies))
            total = [sum(column) for column in zip(*parts.values(), strict=True)]
            assert total == pytest.approx(leaving[place], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("gpus", [2, 4])
def test_what_replicas_contribute_to_each_parameter_adds_up(tmp_path: Path, gpus: int) -> None:
    with recorded(tmp_path, gpus, lambda: convolutions(7)) as trace:
        order = [f"module.{name}" for name, _ in ConvNet().named_parameters()]
        check_sums_of_replicas(trace, gpus, order)


def test_parameters_captured_as_plain_tensors_collect_from_every_replica(tmp_path: Path) -> None:
    w = torch.empty(0)

    def make() -> Training:
        nonlocal w
        w = torch.ones(2, device="cuda", requires_grad=True)
        parallel = nn.DataParallel(Captured(w))
        return lambda: parallel(torch.ones(6, 2)).mean().backward(), [w]

    with recorded(tmp_path, 3, make) as trace:
        found, structure = replicas(trace), graph(trace)
        layout, rows = trace.layout(trace.calls[0].layout), trace.measurements(trace.calls[0])
        (leaf,) = (node for node in structure.nodes if node.name == "AccumulateGrad")
        arriving = sorted(
            rows[sent.row].values or ()
            for sent in layout.contributions
            if structure.edges[sent.edge].receiver == leaf.index and sent.row is not None
        )

    assert set(found) == {0, 1, 2}
    assert sum(count for (name, *_), count in found[2].items() if name == "MulBackward0") == 2
    assert arriving == [pytest.approx((k / 6, k / 6)) for k in (1, 2, 3)]


def test_a_data_parallel_inside_of_another_one_has_replicas_of_its_own(tmp_path: Path) -> None:
    """As torch has it, an inner one can hold no parameters: replicas have none to broadcast.

    Two outer replicas run their inner ones at once, in threads of threads, and nothing there says
    whose they are: which is numbered first is chance, and a structure is stored for each way.
    """

    class Outer(nn.Module):
        def __init__(self, w: Tensor) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.block = nn.DataParallel(Captured(w))

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.fc(x)).to(x.device)

    def make(outer: int) -> Training:
        w = torch.ones(2, device="cuda", requires_grad=True)
        net = Outer(w).cuda()
        parallel = nn.DataParallel(net, list(range(outer)))
        data = torch.randn(4, 2)
        return lambda: parallel(data).mean().backward(), [w, *net.parameters()]

    with recorded(tmp_path, 2, lambda: make(1)) as trace:
        found = replicas(trace)
        assert set(found) == {None, 0, 1}
        assert names(trace)["ScatterBackward"] == names(trace)["GatherBackward"] == 1
    (tmp_path / "x.trace").unlink()

    kept = gradients(2, lambda: make(2))
    watched = gradients(2, lambda: make(2), tmp_path / "x.trace")
    assert all(torch.equal(a, b) for a, b in zip(kept, watched, strict=True))
    with tracer.load(tmp_path / "x.trace") as trace:
        report = check_balance(trace)
        assert (report.imbalances, report.unchecked) == ((), 0)
        found = replicas(trace)
        assert set(found) == {0, 1}
        for copy in (0, 1):
            assert found[copy]["AddmmBackward0", "fc", _line(found, "Outer")] == 1
            assert found[copy]["MulBackward0", "", _line(found, "Captured")] == 4
        assert names(trace)["GatherBackward"] == 3
        roots = [m for m in trace.modules.values() if m.kind == "Captured" and m.root == m.id]
        assert Counter(module.replica for module in roots) == {0: 2, 1: 2}


def _line(found: dict[int | None, Counter[tuple[str, str, str]]], kind: str) -> str:
    """The one line of a class in which its replicas computed."""
    (line,) = {
        w for c in found.values() for _, _, w in c if w.rpartition(".forward")[0].endswith(kind)
    }
    return line


def test_two_data_parallel_nets_of_one_class_keep_their_replicas_apart(tmp_path: Path) -> None:
    def make() -> Training:
        torch.manual_seed(1)
        first, second = nn.DataParallel(Linear().cuda()), nn.DataParallel(Linear().cuda())
        data = torch.randn(5, 3)

        def step() -> None:
            loss = first(data).square().mean() + second(data).square().mean()
            loss.backward()

        return step, [*first.parameters(), *second.parameters()]

    with recorded(tmp_path, 2, make) as trace:
        copies = Counter(
            (m.variable, m.replica)
            for m in trace.modules.values()
            if m.replica is not None and m.root == m.id
        )
        used = Counter(
            (trace.modules[m.root].variable, m.replica)
            for node in graph(trace).nodes
            if node.name == "AddmmBackward0" and (m := module_of(trace, node))
        )
        owners = Counter(
            trace.modules[trace.modules[b.module].root].variable
            for b in trace.buffers.values()
            if b.module is not None
        )

    assert copies == used == {(net, k): 1 for net in ("first", "second") for k in (0, 1)}
    assert owners == {"first": 2, "second": 2}


@pytest.mark.parametrize(("rows", "copies"), [(1, 1), (2, 2), (3, 3)])
def test_fewer_chunks_than_gpus_make_as_many_replicas(
    tmp_path: Path, rows: int, copies: int
) -> None:
    with recorded(tmp_path, 4, lambda: convolutions(rows)) as trace:
        assert set(replicas(trace)) == set(range(copies))
    (tmp_path / "x.trace").unlink()

    def make() -> Training:
        net = nn.Sequential(Linear(), nn.ReLU(), nn.Linear(2, 2)).cuda()
        parallel = nn.DataParallel(net)
        data = torch.randn(rows, 3)
        return lambda: parallel(data).square().mean().backward(), net.parameters()

    with recorded(tmp_path, 4, make) as trace:
        places = Counter(
            (module.replica, module.path, node.name)
            for node in graph(trace).nodes
            if (module := module_of(trace, node)) and module.replica is not None
        )
        check_sums_of_replicas(
            trace,
            copies,
            ["module.0.fc.weight", "module.0.fc.bias", "module.2.weight", "module.2.bias"],
        )
    assert places == {
        (replica, path, name): 1
        for replica in range(copies)
        for path, name in [
            ("0.fc", "AddmmBackward0"), ("0.fc", "TBackward0"), ("1", "ReluBackward0"),
            ("2", "AddmmBackward0"), ("2", "TBackward0"),
        ]
    }  # fmt: skip


def test_a_batch_in_the_second_dimension_is_scattered_and_gathered_there(tmp_path: Path) -> None:
    def make() -> Training:
        net = Linear().cuda()
        parallel = nn.DataParallel(net, dim=1)
        data = torch.randn(4, 5, 3).cuda().requires_grad_()
        return lambda: parallel(data).square().mean().backward(), [data, *net.parameters()]

    with recorded(tmp_path, 2, make) as trace:
        received = {
            (trace.forms[r.form].device, trace.forms[r.form].shape)
            for r in trace.layout(trace.calls[0].layout).receipts
            if graph(trace).nodes[r.node].name == "ScatterBackward"
        }
        assert set(replicas(trace)) == {0, 1}

    assert received == {("cuda:0", (4, 3, 3)), ("cuda:1", (4, 2, 3))}


@pytest.mark.filterwarnings("ignore:Using -1 to represent CPU:FutureWarning")  # torch's own code
def test_an_input_that_requires_grad_gets_it_through_scatter(tmp_path: Path) -> None:
    def make() -> Training:
        net = ConvNet().cuda()
        parallel = nn.DataParallel(net)
        images = torch.randn(5, 3, 8, 8, requires_grad=True)  # on the CPU, as data often are
        return lambda: parallel(images).square().mean().backward(), [images, *net.parameters()]

    with recorded(tmp_path, 2, make) as trace:
        structure = graph(trace)
        (scatter,) = (node for node in structure.nodes if node.name == "ScatterBackward")
        senders = [
            module_of(trace, structure.nodes[edge.sender])
            for edge in sorted(structure.edges, key=lambda edge: edge.input)
            if edge.receiver == scatter.index
        ]
        (data,) = (b for b in trace.buffers.values() if not b.is_parameter)

    assert [(m.path, m.replica) for m in senders if m] == [("conv1", 0), ("conv1", 1)]
    assert data.device == "cpu"


@pytest.mark.filterwarnings("ignore:Was asked to gather along dimension 0:UserWarning")
def test_several_inputs_and_outputs_are_gathered_one_by_one(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor, more: dict[str, Tensor], *, scale: float) -> dict[str, Any]:
            out = self.a(x)
            return {"out": out, "rest": (self.b(more["y"]) * scale, [out.square().mean()])}

    def make() -> Training:
        net = Several().cuda()
        parallel = nn.DataParallel(net)
        x, y = torch.randn(5, 3).cuda(), torch.randn(5, 3).cuda().requires_grad_()

        def step() -> None:
            out = parallel(x, {"y": y}, scale=0.5)
            other, (penalty,) = out["rest"]
            (out["out"].square().mean() + other.mean() + penalty.mean()).backward()

        return step, [y, *net.parameters()]

    with recorded(tmp_path, 2, make) as trace:
        found, counts = replicas(trace), names(trace)
        check_sums_of_replicas(
            trace, 2, ["module.a.weight", "module.a.bias", "module.b.weight", "module.b.bias"]
        )

    assert counts["GatherBackward"] == 3
    assert counts["ScatterBackward"] == 1
    assert set(found) == {0, 1}
    assert found[0] == found[1]
    assert {path for _, path, _ in found[1]} == {"", "a", "b"}


@pytest.mark.filterwarnings("ignore:Using -1 to represent CPU:FutureWarning")  # torch's own code
@pytest.mark.parametrize(("output", "device"), [(1, "cuda:1"), (2, "cuda:2"), (-1, "cpu")])
def test_outputs_are_gathered_where_they_are_wanted(
    tmp_path: Path, output: int, device: str
) -> None:
    def make() -> Training:
        net = Linear().cuda()
        data = torch.randn(5, 3)

        def step() -> None:
            out = data_parallel(net, data, [0, 1], output)
            assert str(out.device) == device
            out.square().mean().backward()

        return step, net.parameters()

    with recorded(tmp_path, 3, make) as trace:
        nodes = graph(trace).nodes
        received = {
            trace.forms[receipt.form].device
            for receipt in trace.layout(trace.calls[0].layout).receipts
            if nodes[receipt.node].name == "GatherBackward"
        }
        assert set(replicas(trace)) == {0, 1}
        assert {buffer.device for buffer in trace.buffers.values()} == {"cuda:0"}

    assert received == {device}


def test_an_output_device_of_the_module_form_is_kept(tmp_path: Path) -> None:
    with recorded(tmp_path, 3, lambda: linear(device_ids=[0, 1], output_device=2)) as trace:
        assert devices(trace) == {"cuda:0", "cuda:1", "cuda:2"}
        check_sums_of_replicas(trace, 2, ["module.fc.weight", "module.fc.bias"])


def test_the_function_without_the_module_is_told_like_it(tmp_path: Path) -> None:
    def make() -> Training:
        net = Linear().cuda()
        data = torch.randn(5, 3).cuda()
        return lambda: data_parallel(net, data).square().mean().backward(), net.parameters()

    with recorded(tmp_path, 2, make) as trace:
        found = replicas(trace)
        check_sums_of_replicas(trace, 2, ["fc.weight", "fc.bias"])

    assert set(found) == {0, 1}
    assert found[0] == found[1]
    assert {path for _, path, _ in found[0]} == {"fc"}


@pytest.mark.parametrize("ids", [[1, 3], [2, 0], [3]])
def test_replicas_are_called_after_their_gpus_whichever_these_are(
    tmp_path: Path, ids: list[int]
) -> None:
    with recorded(tmp_path, 4, lambda: linear(device_ids=ids)) as trace:
        found = replicas(trace)
        reducers = [node for node in graph(trace).nodes if node.name == "BroadcastBackward"]
        assert {buffer.device for buffer in trace.buffers.values()} == {f"cuda:{ids[0]}"}
        assert devices(trace) == {f"cuda:{number}" for number in ids}

    assert set(found) == (set(ids) if len(ids) > 1 else {None})
    assert len(reducers) == (len(ids) > 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_reaches_the_replicas_and_their_books_balance(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    def make() -> Training:
        net = ConvNet(dropout=0.0).cuda()
        parallel = nn.DataParallel(net)
        scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        images, labels = torch.randn(5, 3, 8, 8).cuda(), torch.randint(0, 10, (5,)).cuda()

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype):
                loss = F.cross_entropy(parallel(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        return step, net.parameters()

    with recorded(tmp_path, 2, make) as trace:
        found = replicas(trace)
        low = {f.device for f in trace.forms.values() if f.dtype in str(dtype)}
        kinds = [edit.kind for edit in trace.edits]

    assert low == {"cuda:0", "cuda:1"}
    assert set(found) == {0, 1}
    # Each thread has a cache of cast weights of its own, so both replicas cast theirs.
    assert found[0] == found[1]
    assert any(name == "ToCopyBackward0" and path == "conv1" for name, path, _ in found[1])
    assert kinds.count("unscale") == 3
