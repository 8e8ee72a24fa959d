"""The one node in which DataParallel adds all gradients is drawn parameter by parameter."""

from __future__ import annotations

from pathlib import Path

from tests.graph.sketch import Grad, Op, Sent, Sketch
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.graph.replicas import unbundled


def two_replicas(path: Path, layers: int = 2) -> Path:
    """Layers on two replicas; every replica's gradient of layer i goes into input i of its row."""
    sketch = Sketch(path)
    root = sketch.module("DataParallel", variable="net")
    sketch.module("Net", "module", root)
    modules = [sketch.module("Linear", f"module.fc{n}", root) for n in range(layers)]
    buffers = [sketch.buffer(f"module.fc{n}.weight", (2, 2), m) for n, m in enumerate(modules)]
    operations = [Op("MeanBackward0", 9, saved={"self_numel": 8}), Op("GatherBackward", 8)]
    reducer = 2 + 2 * layers
    sent: list[Sent] = [(0, 1, Grad((4, 2), 0.125))]
    for replica in range(2):
        copy = sketch.module("Net", replica=replica)
        for layer in range(layers):
            index = len(operations)
            module = sketch.module("Linear", f"fc{layer}", copy, replica=replica)
            operations.append(Op("MmBackward0", 5, module))
            sender = (1, replica) if layer == 0 else index - 1
            sent.append((sender, index, Grad((2, 2), 0.125)))
            sent.append(((index, 1), (reducer, replica * layers + layer), Grad((2, 2), 1.0)))
    operations.append(Op("BroadcastBackward", 8, custom="torch.nn.parallel._functions.Broadcast"))
    for layer, buffer in enumerate(buffers):
        operations.append(Op("AccumulateGrad", buffer=buffer))
        sent.append(((reducer, layer), len(operations) - 1, Grad((2, 2), 2.0)))
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
    folded = fold(build(two_replicas(tmp_path / "t.trace", layers=9)), depth=1)

    assert folded.nodes["module:net.fc3"]["replicas"] == (0, 1)


def test_graphs_without_replicas_are_left_alone(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w")
    sketch.call([Op("SumBackward0"), Op("AccumulateGrad", buffer=w)], [(0, 1, Grad((1,)))])
    graph = build(sketch.close())

    assert unbundled(graph) is graph
