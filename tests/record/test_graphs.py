"""What is worked out once for graphs that repeat: whose it is, and when it is not used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tracer
from tracer.record import graphs
from tracer.record.graphs import ALONE, KEPT, Graph, Plans
from tracer.tracefile import Trace

Tensor = torch.Tensor


def walked(loss: Tensor, plans: Plans) -> Graph:
    return Graph([(loss.grad_fn, 0)], plans)


def traced(tmp_path: Path, script: str) -> Trace:
    """The trace of some code whose lines are the same in each of its iterations."""
    with tracer.Recorder(tmp_path / "run.trace") as recorder:
        exec(compile(script, "script.py", "exec"), {"torch": torch})
    assert recorder.failure == ""
    return tracer.load(tmp_path / "run.trace")


def test_the_same_graph_of_other_nodes_has_the_same_plan() -> None:
    plans, w = Plans(), torch.ones(2, requires_grad=True)

    one, other = (walked((w * 2).sum(), plans) for _ in range(2))

    assert one.plan is other.plan
    assert one.nodes[0] is not other.nodes[0]


def test_a_graph_that_differs_in_where_one_output_goes_has_a_plan_of_its_own() -> None:
    plans, v, w = Plans(), torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    to_two, to_one = walked((v * w).sum(), plans), walked((w * w).sum(), plans)

    assert to_two.plan is not to_one.plan
    assert [edge[2] for edge in to_two.all_edges()] == [1, 2, 3]
    assert [edge[2] for edge in to_one.all_edges()] == [1, 2, 2]


def test_an_edge_is_marked_alone_and_kept() -> None:
    w = torch.ones(2, requires_grad=True)

    plan = walked((w * w).sum(), Plans()).plan

    # sum -> mul; mul -> w twice.
    assert list(plan.marks) == [ALONE, KEPT, KEPT]
    assert list(plan.fed) == [-1, 0, -1]


def test_plans_of_more_nodes_than_are_kept_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_NODES", 5)
    plans, w = Plans(), torch.ones(2, requires_grad=True)
    first = walked((w * 2).sum(), plans).plan  # three nodes

    walked((w * 2 * 2).sum(), plans)  # four more

    assert walked((w * 2).sum(), plans).plan is not first


def test_long_graphs_are_told_apart_by_their_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "SHORT", 2)
    plans, w = Plans(), torch.ones(2, requires_grad=True)

    one, again, other = (
        walked(loss, plans).plan for loss in ((w * 2).sum(), (w * 2).sum(), (w / 2).sum())
    )

    assert one is again
    assert one is not other


def test_calls_over_one_graph_have_one_layout_until_something_of_them_changes(
    tmp_path: Path,
) -> None:
    with traced(
        tmp_path,
        """
w = torch.ones(3, requires_grad=True)
for k in range(4):
    x = w * 2.0
    if k == 2:
        x.register_hook(lambda g: g * 10)
    x.sum().backward()
    w.grad = None
""",
    ) as trace:
        calls = trace.calls
        layouts = [call.layout for call in calls]
        hooks = {call.order: trace.layout(call.layout).states[1].hooks for call in calls}

        assert layouts == [0, 0, 1, 0]
        assert list(hooks.values()) == [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0)]


def test_a_leaf_that_takes_the_place_of_another_has_a_structure_of_its_own(tmp_path: Path) -> None:
    with traced(
        tmp_path,
        """
v, w = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
for leaf in (v, w, v):
    (leaf * 2.0).sum().backward()
""",
    ) as trace:
        structures = [trace.layout(call.layout).structure for call in trace.calls]

        assert structures == [0, 1, 0]


def test_code_made_anew_in_each_iteration_is_one_line(tmp_path: Path) -> None:
    with traced(
        tmp_path,
        """
w = torch.ones(3, requires_grad=True)
for _ in range(3):
    exec(compile("loss = (w * 2.0).sum()", "made.py", "exec"))
    loss.backward()
    w.grad = None
""",
    ) as trace:
        structures = {trace.layout(call.layout).structure for call in trace.calls}

        assert structures == {0}


def test_a_hook_of_the_user_on_a_node_is_placed_run_and_removed_as_without_us(
    tmp_path: Path,
) -> None:
    w, seen = torch.ones(3, requires_grad=True), []
    with tracer.Recorder(tmp_path / "run.trace"):
        loss = (w * 2.0).sum()
        handle = loss.grad_fn.register_hook(lambda sent, received: seen.append(1))  # type: ignore[union-attr]
        loss.backward(retain_graph=True)
        handle.remove()
        loss.backward()

    assert seen == [1]
    assert isinstance(handle, torch.utils.hooks.RemovableHandle)


def test_a_group_whose_option_changes_its_type_alone_is_written_anew(tmp_path: Path) -> None:
    w = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1)
    with tracer.Recorder(tmp_path / "run.trace"):
        for rate in (1, 1, 1.0):
            optimizer.param_groups[0]["lr"] = rate
            w.sum().backward()
            optimizer.step()

    with tracer.load(tmp_path / "run.trace") as trace:
        assert [repr(step.groups[0]["lr"]) for step in trace.steps] == ["1", "1", "1.0"]
