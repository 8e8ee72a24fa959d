"""The recorder on small loops: what it counts, names, attributes; what it leaves behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tracer.analysis.balance import check_balance
from tracer.errors import TraceUnwritable, WrongUse
from tracer.events import Call, Measurement, Node
from tracer.tracefile import Trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace"


def nodes(trace: Trace, call: Call) -> tuple[Node, ...]:
    structure = trace.layout(call.layout).structure
    assert structure is not None
    return trace.structure(structure).nodes


def reading(trace: Trace, call: Any, moment: str) -> list[Measurement]:
    rows = trace.measurements(call)
    return [
        rows[r.row]
        for r in trace.layout(call.layout).readings
        if r.moment == moment and r.row is not None
    ]


def source_line(trace: Trace, node: Node) -> str:
    assert node.source is not None
    source = trace.sources[node.source]
    return Path(source.file).read_text().splitlines()[source.line - 1].strip()


def test_three_backward_calls_fill_the_buffer_with_one_two_three(path: Path) -> None:
    w, x = torch.ones(1, requires_grad=True), torch.ones(4, 1)

    with tracer.Recorder(path):
        for _ in range(3):
            (w * x).mean().backward()

    with tracer.load(path) as trace:
        contents = [reading(trace, call, "after")[0].values for call in trace.calls]
        assert contents == [(1.0,), (2.0,), (3.0,)]
        received = [
            trace.measurements(call)[trace.layout(call.layout).receipts[-1].row or 0].values
            for call in trace.calls
        ]
        assert received == [(1.0,), (1.0,), (1.0,)]
        assert check_balance(trace).is_balanced


def test_a_contribution_broken_on_purpose_is_an_imbalance_with_its_factor(path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path):
        middle = w * 2
        # A C++-side change that no recorded hook explains: the hook is put on past the recorder.
        torch.Tensor.register_hook.__wrapped__(middle, lambda g: g * 0.25)  # type: ignore[attr-defined]
        middle.exp().sum().backward()

    with tracer.load(path) as trace:
        report = check_balance(trace)
    assert [i.what for i in report.imbalances] == ["MulBackward0 input 0"]
    assert report.imbalances[0].factor == pytest.approx(0.25)


def test_nodes_of_one_composite_function_share_line_and_name(path: Path) -> None:
    logits = torch.randn(4, 3, requires_grad=True)

    with tracer.Recorder(path):
        F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()

    with tracer.load(path) as trace:
        nll, softmax, leaf = nodes(trace, trace.calls[0])
        assert (nll.name, softmax.name) == ("NllLossBackward0", "LogSoftmaxBackward0")
        assert nll.called == softmax.called == "cross_entropy"
        assert nll.source == softmax.source
        assert source_line(trace, nll).startswith("F.cross_entropy(logits")
        assert leaf.buffer == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.inner[0](x).tanh()
        return self.inner[1](hidden)


def test_nodes_know_their_module_and_parameters_their_path(path: Path) -> None:
    model = Twice()

    with tracer.Recorder(path):
        loss = model(torch.randn(2, 3)).mean()
        loss.backward()

    with tracer.load(path) as trace:
        modules = {
            node.name: trace.modules[node.module].path
            for node in nodes(trace, trace.calls[0])
            if node.module is not None
        }
        assert modules["AddmmBackward0"] in ("inner.0", "inner.1")
        assert modules["TanhBackward0"] == ""
        assert {m.variable for m in trace.modules.values() if not m.path} == {"model"}
        assert sorted(b.name for b in trace.buffers.values()) == [
            "inner.0.bias", "inner.0.weight", "inner.1.bias", "inner.1.weight",
        ]  # fmt: skip
        assert [r.name for r in trace.layout(trace.calls[0].layout).roots] == ["loss"]


def test_a_net_may_have_its_own_ways_to_list_what_is_in_it(path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def named_parameters(self) -> Any:  # type: ignore[override]
            raise AssertionError("not for us to call")

        modules = named_modules = parameters = named_parameters

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    net = Net()

    with tracer.Recorder(path) as recorder:
        net(torch.randn(4, 3)).mean().backward()

    assert recorder.failure == ""
    with tracer.load(path) as trace:
        assert sorted(b.name for b in trace.buffers.values()) == ["layer.bias", "layer.weight"]


def test_several_nets_keep_their_variables_apart(path: Path) -> None:
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)

    with tracer.Recorder(path):
        critic(generator(torch.randn(4, 2))).mean().backward()

    with tracer.load(path) as trace:
        roots = {m.variable for m in trace.modules.values() if m.root == m.id}
        assert roots == {"generator", "critic"}


def test_nets_passed_to_a_function_under_one_name_are_told_apart(path: Path) -> None:
    def score(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).mean()

    student, teacher = nn.Linear(3, 1), nn.Linear(3, 1)

    with tracer.Recorder(path):
        x = torch.randn(4, 3)
        (score(student, x) - score(teacher, x)).backward()

    with tracer.load(path) as trace:
        assert {m.variable for m in trace.modules.values() if m.root == m.id} == {
            "model",
            "teacher",
        }


def test_a_net_is_not_called_what_its_own_method_calls_it(path: Path) -> None:
    class Net(nn.Module):
        def __init__(this) -> None:
            super().__init__()
            this.layer = nn.Linear(3, 1)

        def forward(this, x: torch.Tensor) -> torch.Tensor:
            return this.layer(x)

    net = Net()

    with tracer.Recorder(path):
        net(torch.randn(4, 3)).mean().backward()

    with tracer.load(path) as trace:
        assert {m.variable for m in trace.modules.values() if m.root == m.id} == {"net"}


def test_a_graph_that_repeats_is_stored_once(path: Path) -> None:
    w, x = torch.ones(1, requires_grad=True), torch.ones(4, 1)

    with tracer.Recorder(path):
        for _ in range(1000):
            nn.MSELoss()(w * x, torch.zeros(4, 1)).backward()
            w.grad = None
    size = path.stat().st_size

    with tracer.load(path) as trace:
        assert len(trace.calls) == 1000
        assert len({trace.layout(call.layout).structure for call in trace.calls}) == 1
        assert len({call.layout for call in trace.calls}) == 1
    print(f"{size / 1000:.0f} bytes per iteration")
    assert size / 1000 < 1000


def test_a_changing_factor_does_not_store_the_graph_again(path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path):
        for step in range(5):
            (w.sum() * (1 / (1 + step))).backward()

    with tracer.load(path) as trace:
        assert len({call.layout for call in trace.calls[1:]}) == 1
        assert [trace.scalars(call)[0] for call in trace.calls] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]


def train(steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (None, 1, [1, 2, 3, 4, 5, 6]),
        (None, 2, [1, 3, 5]),
        ((2, 3), 1, [2, 3]),
        ((3, None), 2, [3, 5]),
    ],
)
def test_only_the_steps_asked_for_are_recorded(
    path: Path, steps: Any, every: int, expected: list[int]
) -> None:
    plain = train(6)

    with tracer.Recorder(path, steps=steps, every=every):
        traced = train(6)

    assert all(map(torch.equal, plain.parameters(), traced.parameters()))
    with tracer.load(path) as trace:
        assert [step.step for step in trace.steps] == expected
        assert [call.step for call in trace.calls] == [s for s in expected for _ in range(2)]


def test_a_step_keeps_its_options_and_what_it_consumed(path: Path) -> None:
    with tracer.Recorder(path):
        train(1)

    with tracer.load(path) as trace:
        (step,) = trace.steps
        assert (step.kind, step.groups[0]["lr"], step.groups[0]["momentum"]) == ("SGD", 0.1, 0.9)
        assert len(step.groups[0]["buffers"]) == 2
        consumed = [m.norm for m in reading(trace, step, "consumed")]
        after = [m.norm for m in reading(trace, trace.calls[-1], "after")]
        assert sorted(consumed) == sorted(after)


@pytest.mark.parametrize("others", [0, 1])
def test_a_step_that_raises_ends_no_window_and_hinders_no_other(path: Path, others: int) -> None:
    w = torch.ones(2, requires_grad=True)
    optimizers = [torch.optim.SGD([w], lr=0.1), torch.optim.Adam([w])]
    raises = [True]

    def once(*_: object) -> None:
        if raises.pop():
            raise KeyError("of the script")

    optimizers[0].register_step_pre_hook(once)
    with tracer.Recorder(path):
        w.sum().backward()
        with pytest.raises(KeyError, match="of the script"):
            optimizers[0].step()
        for _ in range(3):
            raises.append(False)
            w.sum().backward()
            optimizers[others].step()

    with tracer.load(path) as trace:
        assert [step.step for step in trace.steps] == [1, 2, 3]
        assert [call.step for call in trace.calls] == [1, 1, 2, 3]


def test_the_first_step_keeps_the_weights_it_found(path: Path) -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.fill_(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with tracer.Recorder(path):
        for _ in range(2):
            model(torch.ones(1, 2)).mean().backward()
            optimizer.step()

    with tracer.load(path) as trace:
        first, second = (reading(trace, step, "value") for step in trace.steps)
    assert [measured.values for measured in first] == [(0.5, 0.5)]
    assert second == []


def test_zero_grad_is_an_event_between_the_calls(path: Path) -> None:
    with tracer.Recorder(path):
        train(2)

    with tracer.load(path) as trace:
        kinds = [type(event).__name__ for event in trace.events]
        assert kinds == ["Call", "Call", "Step", "Reset", "Call", "Call", "Step"]
        assert (trace.resets[0].by, trace.resets[0].set_to_none) == ("SGD.zero_grad", True)


def test_nested_calls_know_the_call_around_them(path: Path) -> None:
    from torch.utils.checkpoint import checkpoint

    model, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)

    with tracer.Recorder(path):
        checkpoint(model, x, use_reentrant=True).sum().backward()

    with tracer.load(path) as trace:
        outer, inner = trace.calls
        assert (outer.nested_in, inner.nested_in) == (None, outer.order)


def test_a_failing_backward_is_kept_with_its_exception(path: Path) -> None:
    w = torch.ones(3, requires_grad=True)
    loss = w.exp().sum()
    loss.backward()

    with tracer.Recorder(path), pytest.raises(RuntimeError, match="second time"):
        loss.backward()

    with tracer.load(path) as trace:
        assert trace.calls[0].outcome.startswith("RuntimeError: Trying to backward")


def test_a_failing_backward_warns_of_nothing_more_than_it_would(
    path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise ValueError("broken")

    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path), pytest.raises(ValueError, match="broken"):
        Broken.apply(w).sum().backward()

    assert not recwarn.list


def hooks_on_a_view_whose_base_changes() -> list[str]:
    """Which of three hooks run: none, as torch forgets the dict when it makes the node anew."""
    ran: list[str] = []
    base = torch.ones(2, 3, requires_grad=True) * 2
    view = base.view(3, 2)
    view.retain_grad()
    view.register_hook(lambda gradient: ran.append("first"))
    base.mul_(3)
    view.register_hook(lambda gradient: ran.append("second"))
    view.retain_grad()
    view.register_hook(lambda gradient: ran.append("third"))
    view.sum().backward()
    return [*ran, str(view.grad)]


def test_hooks_on_a_view_whose_base_changes_run_as_they_would(path: Path) -> None:
    plain = hooks_on_a_view_whose_base_changes()

    with tracer.Recorder(path):
        recorded = hooks_on_a_view_whose_base_changes()

    assert "third" not in plain
    assert recorded == plain


def test_a_leaf_that_is_none_any_more_is_read_without_a_warning(
    path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    w = torch.ones(3, requires_grad=True)
    before = w * 2
    w.requires_grad_(False)
    w.add_(before)  # now it is a sum, and the graph of `before` ends in a leaf that is none
    torch.set_warn_always(True)
    try:
        with tracer.Recorder(path) as recorder:
            w.sum().backward(inputs=[w])
            with pytest.raises(RuntimeError, match="moved into the graph interior"):
                before.sum().backward()
    finally:
        torch.set_warn_always(False)

    assert [str(warning.message) for warning in recwarn] == []
    assert recorder.failure == ""
    with tracer.load(path) as trace:
        assert len(trace.calls) == 2
        assert not check_balance(trace).imbalances


@pytest.mark.parametrize("terms", [False, True])
def test_a_view_whose_node_torch_does_not_tell_is_refused_by_torch_alone(
    path: Path, terms: bool
) -> None:
    v = torch.ones(3, requires_grad=True)
    base = v * 3
    view = base.split(1)[0]
    view.register_hook(lambda gradient: gradient)
    view.retain_grad()

    with tracer.Recorder(path, terms=terms) as recorder:
        base.mul_(2)  # from now on `view.grad_fn` raises, but not what torch does without it
        view.register_hook(lambda gradient: gradient)
        view.retain_grad()
        with pytest.raises(RuntimeError, match="is a view and its base") as refusal:
            view.backward(torch.ones(1))
        base.sum().backward()

    assert "tracer" not in str(refusal.value)
    assert recorder.failure == ""
    with tracer.load(path) as trace:
        assert [call.outcome for call in trace.calls] == ["done"]


def test_a_failing_backward_that_builds_a_graph_says_what_it_would(
    path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def message() -> str:
        w = torch.ones(3, requires_grad=True)
        result = w.tanh()
        result.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
            torch.autograd.grad(result.sum(), w, create_graph=True)
        return str(caught.value)

    expected = message()
    with tracer.Recorder(path):
        assert message() == expected

    assert "enable anomaly detection" in expected
    assert not recwarn.list


def test_a_hundred_thousand_nodes_deep(path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path) as recorder:
        x = w
        for _ in range(100_000):
            x = x * 1.0
        x.sum().backward()
        del x  # frees the graph: see NOTE [Freeing a deep graph]

    assert recorder.failure == ""
    with tracer.load(path) as trace:
        assert len(nodes(trace, trace.calls[0])) == 100_002
        assert check_balance(trace).is_balanced


def test_nothing_is_kept_alive_after_the_call(path: Path) -> None:
    references = []

    def iterate(model: nn.Module) -> None:
        x = torch.randn(2, 3)
        out = model(x)
        out.register_hook(lambda g: references.append(weakref.ref(g)))
        loss = out.sum()
        loss.backward()
        references.extend([weakref.ref(x), weakref.ref(out), weakref.ref(loss)])

    model = nn.Linear(3, 2)
    with tracer.Recorder(path):
        iterate(model)
        gc.collect()
        assert all(reference() is None for reference in references)
    whole = weakref.ref(model)
    del model
    gc.collect()
    assert whole() is None


def test_looking_for_names_keeps_no_variable_of_a_function_alive(path: Path) -> None:
    found = []

    def loop() -> None:
        w = torch.ones(3, requires_grad=True)
        for _ in range(2):
            loss = (w * 2).sum()
            loss.backward()
            found.append(weakref.ref(loss))
            del loss
            assert found[-1]() is None

    with tracer.Recorder(path):
        loop()


def test_locals_that_the_script_asked_for_stay_as_they_are(path: Path) -> None:
    def loop() -> dict[str, Any]:
        rate = 0.1
        config = locals()
        w = torch.ones(3, requires_grad=True)
        (w * rate).sum().backward()
        return config

    with tracer.Recorder(path):
        assert loop()["rate"] == 0.1


def test_a_forked_child_writes_nothing(path: Path) -> None:
    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path):
        child = os.fork()
        if not child:
            (w * 2).sum().backward()
            os._exit(0 if not torch.is_anomaly_enabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
        (w * 3).sum().backward()

    with tracer.load(path) as trace:
        assert len(trace.calls) == 1


def test_a_killed_run_keeps_all_but_the_step_in_progress(path: Path) -> None:
    script = """
        import os, signal, sys, torch, tracer
        w = torch.ones(3, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1)
        with tracer.Recorder(sys.argv[1]):
            for step in range(100):
                optimizer.zero_grad()
                (w * 2).sum().backward()
                if step == 49:
                    os.kill(os.getpid(), signal.SIGKILL)
                optimizer.step()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], check=False)

    assert done.returncode == -9
    with tracer.load(path) as trace:
        assert trace.info.status == "running"
        assert len(trace.steps) == 49
        assert len(trace.calls) == 50
        assert check_balance(trace).is_balanced


def test_compiled_parts_are_one_opaque_node(path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def run() -> list[torch.Tensor]:
        torch._dynamo.reset()
        model.zero_grad()
        torch.manual_seed(0)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            compiled(torch.randn(2, 3)).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = run()
    with tracer.Recorder(path) as recorder:
        found = run()

    assert recorder.failure == ""
    assert all(map(torch.equal, found, expected))
    with tracer.load(path) as trace:
        names = [node.name for node in nodes(trace, trace.calls[-1])]
        assert "CompiledFunctionBackward" in names
        assert check_balance(trace).is_balanced


def test_two_recorders_at_once_are_refused(path: Path) -> None:
    with tracer.Recorder(path), pytest.raises(WrongUse, match="at work already"):
        tracer.Recorder(path.with_name("other.trace")).start()


def test_a_file_that_is_no_trace_is_not_replaced(path: Path) -> None:
    path.write_text("precious")

    with pytest.raises(TraceUnwritable, match="not a trace"):
        tracer.Recorder(path).start()

    assert path.read_text() == "precious"
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize(
    "place", ["tracer.record.hooks.identity", "tracer.record.sources.Sources.origin"]
)
def test_a_fault_of_the_tracer_stops_recording_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug of ours")

    monkeypatch.setattr(place, broken)
    w = torch.ones(3, requires_grad=True)

    with tracer.Recorder(path) as recorder:
        (w * 2).sum().backward()

    assert w.grad is not None
    assert w.grad.tolist() == [2, 2, 2]
    assert "a bug of ours" in recorder.failure
    with tracer.load(path) as trace:
        assert "a bug of ours" in trace.info.failure
