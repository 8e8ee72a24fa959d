"""The one node in which DataParallel adds all gradients is drawn parameter by parameter."""

from __future__ import annotations

from pathlib import Path

from tests.graph.sketch import Grad, Op, Sent, Sketch
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.replicas import unbundled


def two_replicas(path: Path, layers: int = 2) -> Path:
    return replicated(path, layers, chunks=(2, 2))


def replicated(path: Path, layers: int, chunks: tuple[int, ...], scatters: bool = False) -> Path:
    """Layers on replicas; every replica's gradient of layer i goes into input i of its row."""
    sketch = Sketch(path)
    root = sketch.module("DataParallel", variable="net")
    sketch.module("Net", "module", root)
    modules = [sketch.module("Linear", f"module.fc{n}", root) for n in range(layers)]
    buffers = [sketch.buffer(f"module.fc{n}.weight", (2, 2), m) for n, m in enumerate(modules)]
    operations = [Op("MeanBackward0", 9, saved={"self_numel": 8}), Op("GatherBackward", 8)]
    count = len(chunks)
    reducer = 2 + count * layers
    sent: list[Sent] = [(0, 1, Grad((sum(chunks), 2), 0.125))]
    for replica, chunk in enumerate(chunks):
        copy = sketch.module("Net", replica=replica)
        for layer in range(layers):
            index = len(operations)
            module = sketch.module("Linear", f"fc{layer}", copy, replica=replica)
            operations.append(Op("MmBackward0", 5, module))
            sender = (1, replica) if layer == 0 else index - 1
            sent.append((sender, index, Grad((chunk, 2), 0.125)))
            sent.append(((index, 1), (reducer, replica * layers + layer), Grad((2, 2), 1.0)))
    operations.append(Op("BroadcastBackward", 8, custom="torch.nn.parallel._functions.Broadcast"))
    for layer, buffer in enumerate(buffers):
        operations.append(Op("AccumulateGrad", buffer=buffer))
        sent.append(((reducer, layer), len(operations) - 1, Grad((2, 2), 2.0)))
    if scatters:
        x = sketch.buffer("x", (sum(chunks), 2))
        operations += [Op("ScatterBackward", 8), Op("AccumulateGrad", buffer=x)]
        scatter = len(operations) - 2
        for replica, chunk in enumerate(chunks):
            last = 1 + (replica + 1) * layers
            sent.append((last, (scatter, replica), Grad((chunk, 2), 0.125)))
        sent.append((scatter, scatter + 1, Grad((sum(chunks), 2), 0.125)))
    sketch.call(operations, sent)
    return sketch.close()


def test_each_parameter_has_a_sum_over_replicas_of_its_own(tmp_path: Path) -> None:
    graph = unbundled(build(two_replicas(tmp_path / "t.trace")))

    assert sorted(graph.predecessors("c1.n6/0")) == ["c1.n2", "c1.n4"]
    assert list(graph.successors("c1.n6/0")) == ["c1.n7"]
    assert sorted(graph.predecessors("c1.n6/1")) == ["c1.n3", "c1.n5"]


def test_a_leaf_says_that_replicas_are_added(tmp_path: Path) -> None:
    folded = fold(build(two_replicas(tmp_path / "t.trace", layers=9)), depth=1)

    leaf = folded.nodes["leaf:net.fc3"]
    assert leaf["replicas_added"] == 2
    assert "BroadcastBackward" not in {data["name"] for _, data in folded.nodes(data=True)}


def test_the_modules_of_replicas_are_those_of_the_original(tmp_path: Path) -> None:
    graph = build(two_replicas(tmp_path / "t.trace"))

    operation = graph.nodes["c1.n4"]
    assert (operation["root"], operation["module"], operation["replica"]) == ("net", "fc0", 1)
    assert graph.nodes["b0"]["name"] == "fc0.weight"


def test_replicas_lie_on_one_another(tmp_path: Path) -> None:
    folded = fold(build(two_replicas(tmp_path / "t.trace", layers=12)), depth=1)

    assert folded.nodes["module:net.fc3"]["replicas"] == (0, 1)
    assert {data["lane"] for _, data in folded.nodes(data=True)} == {None}


def test_replicas_stand_side_by_side_where_there_is_room(tmp_path: Path) -> None:
    folded = fold(build(two_replicas(tmp_path / "t.trace")), depth=1)

    assert folded.nodes["module:net.fc0@0"]["cluster"] == ("net", "replica 0")
    assert folded.nodes["module:net.fc0@1"]["cluster"] == ("net", "replica 1")
    assert folded.nodes["module:net.fc0@1"]["path"] == ("net", "fc0")


def test_what_both_replicas_write_stands_between_them(tmp_path: Path) -> None:
    folded = fold(build(two_replicas(tmp_path / "t.trace")), depth=1)

    assert set(folded.predecessors("leaf:net.fc0")) == {"module:net.fc0@0", "module:net.fc0@1"}
    assert folded.nodes["leaf:net.fc0"]["lane"] is None
    assert folded.nodes["leaf:net.fc0"]["cluster"] == ("net",)


def test_a_lane_knows_its_device_and_its_share_of_the_batch(tmp_path: Path) -> None:
    folded = fold(build(replicated(tmp_path / "t.trace", 2, chunks=(3, 2))), depth=1)
    lanes = [c for c in folded.graph["clusters"] if c["lane"] is not None]

    assert [(c["lane"], c["device"], c["share"]) for c in lanes] == [
        (0, "cpu", (3, 5)),
        (1, "cpu", (2, 5)),
    ]


def test_many_replicas_lie_on_one_another(tmp_path: Path) -> None:
    folded = fold(build(replicated(tmp_path / "t.trace", 2, chunks=(1,) * 8)), depth=1)

    assert folded.nodes["module:net.fc0"]["replicas"] == tuple(range(8))
    assert [(c["path"], c["replicas"]) for c in folded.graph["clusters"]] == [(("net",), 8)]


def test_graphs_without_replicas_are_left_alone(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w")
    sketch.call([Op("SumBackward0"), Op("AccumulateGrad", buffer=w)], [(0, 1, Grad((1,)))])
    graph = build(sketch.close())

    assert unbundled(graph) is graph
