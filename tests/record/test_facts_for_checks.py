"""Facts that checks ask for: texts of lines, batches drawn, graphs run again, spread operands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tracer.tracefile import Trace


def recorded(script: Callable[[], object], folder: Path) -> Trace:
    torch.manual_seed(0)
    with tracer.Recorder(folder / "run.trace"):
        script()
    return tracer.load(folder / "run.trace")


def saved(trace: Trace, number: int, name: str) -> Any:
    """An attribute of a node of the only call, with its number if it is one."""
    call = trace.calls[0]
    layout = trace.layout(call.layout)
    assert layout.structure is not None
    index = [n.name for n in trace.structure(layout.structure).nodes].index(name)
    state = layout.states[index]
    numbers = trace.scalars(call)[state.first : state.first + len(state.numbers)]
    return {**state.saved, **dict(zip(state.numbers, numbers, strict=True))}


def test_a_line_is_kept_with_its_text(tmp_path: Path) -> None:
    def script() -> None:
        torch.ones(1, requires_grad=True).sum().backward()  # with its comment

    with recorded(script, tmp_path) as trace:
        source = trace.sources[trace.calls[0].source or 0]

    assert source.text.strip().endswith(".sum().backward()  # with its comment")


def test_a_call_knows_which_batch_of_which_loader_came_last(tmp_path: Path) -> None:
    w = torch.ones(1, requires_grad=True)
    loader = DataLoader(TensorDataset(torch.ones(6, 1)), batch_size=2)

    def script() -> None:
        w.sum().backward()
        for (x,) in loader:
            (w * x).sum().backward()

    with recorded(script, tmp_path) as trace:
        assert [call.batch for call in trace.calls] == [None, (0, 1), (0, 2), (0, 3)]
    assert next(iter(loader))[0].shape == (2, 1)


def test_loaders_are_told_apart(tmp_path: Path) -> None:
    w = torch.ones(1, requires_grad=True)
    one, two = (DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2) for _ in range(2))

    def script() -> None:
        for (x,), (y,) in zip(one, two, strict=True):
            (w * x * y).sum().backward()
        for (x,) in one:
            (w * x).sum().backward()

    with recorded(script, tmp_path) as trace:
        loaders = [call.batch and call.batch[0] for call in trace.calls]
    assert loaders[0] == loaders[1]
    assert loaders[2] != loaders[1]


def test_a_graph_that_runs_twice_is_known_by_its_first_node(tmp_path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    def script() -> None:
        loss = (w * w).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        (w * w).sum().backward()

    with recorded(script, tmp_path) as trace:
        first = trace.calls[0].order
        assert [call.again for call in trace.calls] == [(), ((0, first),), ()]


def test_of_a_shared_trunk_only_the_trunk_runs_again(tmp_path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    def script() -> None:
        trunk = w.exp()
        trunk.sum().backward(retain_graph=True)
        trunk.mean().backward()

    with recorded(script, tmp_path) as trace:
        ((node, order),) = trace.calls[1].again
        structure = trace.structure(trace.layout(trace.calls[1].layout).structure or 0)
    assert structure.nodes[node].name == "ExpBackward0"
    assert order == trace.calls[0].order


def test_frozen_leaves_of_an_optimizer_are_listed(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def script() -> None:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    with recorded(script, tmp_path) as trace:
        (group,) = trace.steps[0].groups
        assert [trace.buffers[b].name for b in group["frozen"]] == ["bias"]


Losses = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize(
    ("name", "loss", "expected"),
    [
        ("MulBackward0", lambda p, t: (p * t).mean(), {"other_sizes": [4]}),
        ("DivBackward0", lambda p, t: (p / t).mean(), {"other_sizes": [4]}),
        ("MseLossBackward0", F.mse_loss, {"reduction": 1, "target_spread": [0]}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_spread_operand_is_noted(
    name: str, loss: Losses, expected: dict[str, Any], tmp_path: Path
) -> None:
    prediction, target = torch.rand(4, 1, requires_grad=True), torch.rand(4) + 1

    with recorded(lambda: loss(prediction, target).backward(), tmp_path) as trace:
        assert saved(trace, 0, name) == expected


@pytest.mark.parametrize(("target", "is_grid"), [((4,), True), ((1, 4), True), ((4, 4), False)])
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("PowBackward0", lambda p, t: ((p - t) ** 2).mean()),
        ("AbsBackward0", lambda p, t: (t - p).abs().mean()),
    ],
)
def test_a_difference_of_two_spread_operands_is_seen_in_its_values(
    target: tuple[int, ...], is_grid: bool, name: str, loss: Losses, tmp_path: Path
) -> None:
    prediction = torch.rand(4, 1, requires_grad=True)

    with recorded(lambda: loss(prediction, torch.rand(target)).backward(), tmp_path) as trace:
        assert (saved(trace, 0, name)["grid_error"] < 1e-5) is is_grid


def test_equal_shapes_are_not_looked_into(tmp_path: Path) -> None:
    prediction = torch.rand(4, 4, requires_grad=True)

    with recorded(lambda: ((prediction - 1) ** 2).mean().backward(), tmp_path) as trace:
        assert saved(trace, 0, "PowBackward0") == {"exponent": 2}
