"""Every entry to the engine, nested ones inside it: one `Call` each."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.autograd.graph

from tracer.events import Call, Capture
from tracer.record.batches import Batches
from tracer.record.buffers import read_buffers
from tracer.record.deep import guard
from tracer.record.graphs import Graph, Plans
from tracer.record.hookcalls import HookCalls
from tracer.record.hooks import Watch
from tracer.record.instrument import Instrument
from tracer.record.journal import Journal
from tracer.record.layouts import Read, Start, describe_call, structure_of
from tracer.record.measure import Shelf, can_be_put, identity, quietly, shelf_for
from tracer.record.modules import Modules, variables
from tracer.record.nodes import node_of
from tracer.record.quiet import grad_of, is_leaf
from tracer.record.retained import Retained
from tracer.record.sources import NodeWatch, Sources
from tracer.record.straight import Left, Straight

__all__ = ["BackwardCalls"]


@dataclass(slots=True)
class Request:
    """What the engine was asked for; the arguments of `_engine_run_backward`, named."""

    outputs: Sequence[Any]
    gradients: Sequence[torch.Tensor | None]
    retain_graph: bool
    create_graph: bool
    inputs: Sequence[Any]
    accumulates: bool


def _request(
    outputs: Sequence[Any],
    gradients: Sequence[torch.Tensor | None] | None = None,
    retain_graph: bool | None = False,
    create_graph: bool = False,
    inputs: Sequence[Any] | None = None,
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
) -> Request:
    outputs = tuple(outputs)
    gradients = tuple(gradients or (None,) * len(outputs))
    return Request(
        outputs, gradients, bool(retain_graph), bool(create_graph), tuple(inputs or ()),
        bool(accumulate_grad),
    )  # fmt: skip


@dataclass(slots=True)
class Running:
    """A backward call at work."""

    order: int
    request: Request
    graph: Graph
    shelf: Shelf
    watch: Watch
    source: int | None
    nested_in: int | None
    step: int
    started: float
    leaves: dict[int, int]
    """Node that writes a buffer -> buffer."""
    roots: list[Start]
    readings: list[Read] = field(default_factory=list)
    batch: tuple[int, int] | None = None
    again: tuple[tuple[int, int], ...] = ()
    task: int = -1
    found: dict[int, tuple[tuple[Any, ...], int]] = field(default_factory=dict)
    """Of each buffer, as it was after the call: its `identity`, its row."""
    left: dict[int, Left] = field(default_factory=dict)


class BackwardCalls(Instrument):
    """Stands in the one door to the engine: design.md, section 3, rule 4."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        nodes: NodeWatch,
        batches: Batches,
        hooks: HookCalls,
        straight: Straight,
        fail: Callable[[Exception], None],
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._straight = straight
        self._nodes = nodes
        self._batches = batches
        self._hooks = hooks
        self._retained = Retained()
        self._plans = Plans()
        self._names: dict[tuple[int, int], tuple[str, ...]] = {}
        self._by_task: dict[int, Running] = {}
        self._on_thread = threading.local()
        self.after_each: list[Callable[[], None]] = []
        """Called after every outermost call, while what it computed is still there."""

    def start(self) -> None:
        run = self._door(torch.autograd.graph._engine_run_backward)
        self._patches.replace(torch.autograd.graph, "_engine_run_backward", run)
        self._patches.replace(torch.autograd, "_engine_run_backward", run)

    def _door(self, engine: Callable[..., Any]) -> Callable[..., Any]:
        def _engine_run_backward(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            if not self.recording or _is_compiled() or not _has_graph(outputs):
                return engine(outputs, *args, **kwargs)
            running = self._begin(_request(outputs, *args, **kwargs), sys._getframe(1))
            if running is None:
                return engine(outputs, *args, **kwargs)
            result = self._run(running, lambda: engine(outputs, *args, **kwargs))
            self._straight.leave(sys._getframe(1), self._journal.events, running.left)
            return result

        return _engine_run_backward

    def _run(self, running: Running, engine: Callable[[], Any]) -> Any:
        stack = self._stack()
        stack.append(running)
        entered = self._nodes.enter_engine(running.request.create_graph)
        outcome, result = "done", None
        try:
            with self._nodes.unnoticed(entered):
                result = engine()
            return result
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._nodes.leave_engine(entered)
            stack.remove(running)
            self._by_task.pop(running.task, None)
            self._end(running, outcome, result)

    def _stack(self) -> list[Running]:
        stack: list[Running] = self._on_thread.__dict__.setdefault("stack", [])
        return stack

    def _begin(self, request: Request, frame: FrameType | None) -> Running | None:
        try:
            with quietly():
                return self._prepare(request, frame)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)
            return None

    def _prepare(self, request: Request, frame: FrameType | None) -> Running:
        started, order, nested_in = self._journal.seconds(), self._journal.order(), self._outer()
        if nested_in is None:
            self._modules.next_round()
        users = self._sources.lines(frame)
        places = [_place(output) for output in request.outputs]
        graph, shelf = Graph(places, self._plans), shelf_for(self._journal.detail)
        guard(graph)
        leaves = {index: self._modules.buffer(leaf, users) for index, leaf in graph.leaves.items()}
        watch = Watch(
            graph, shelf, self._journal, self._hooks, lambda: self._learn_task(running), self._fail
        )
        running = Running(
            order=order,
            request=request,
            graph=graph,
            shelf=shelf,
            watch=watch,
            source=self._sources.innermost(users),
            nested_in=nested_in,
            step=self._journal.step,
            started=started,
            leaves=leaves,
            roots=self._roots(request, places, graph, shelf, users),
            batch=self._batches.last,
            again=self._retained.met(graph),
        )
        if request.retain_graph and request.accumulates and not request.create_graph:
            self._retained.mark(graph, order)
        self._read(running, "before")
        watch.hook()
        return running

    def _outer(self) -> int | None:
        """The call that this one runs inside of."""
        outer = self.at_work()
        return outer.order if outer else None

    def at_work(self) -> Running | None:
        """The innermost call that runs here; on a CUDA device's thread, told by its task."""
        task = torch._C._current_graph_task_id()
        outer = self._by_task.get(task)
        if outer is None and task != -1 and self._stack():
            outer = self._stack()[-1]
        return outer

    def _learn_task(self, running: Running) -> None:
        running.task = torch._C._current_graph_task_id()
        self._by_task[running.task] = running

    def _roots(
        self,
        request: Request,
        places: list[tuple[Any, int]],
        graph: Graph,
        shelf: Shelf,
        users: list[FrameType],
    ) -> list[Start]:
        names = self._root_names(request.outputs, users)
        roots: list[Start] = []
        for output, (node, place), name, gradient in zip(
            request.outputs, places, names, request.gradients, strict=True
        ):
            is_tensor = isinstance(output, torch.Tensor)
            known = output if is_tensor else gradient
            if known is None:
                continue  # a GradientEdge with no gradient: the engine refuses it
            roots.append(
                (
                    graph.index[node],
                    place,
                    name,
                    self._journal.form(known),
                    None if gradient is None else shelf.add(gradient),
                    shelf.add(output) if is_tensor else None,
                )
            )
        return roots

    def _root_names(self, outputs: Sequence[Any], users: list[FrameType]) -> tuple[str, ...]:
        """What the calling line's variables call the roots, looked up once per line."""
        if not users:
            return ("",) * len(outputs)
        key = self._sources.place(users[0])
        names = self._names.get(key)
        if names is None or len(names) != len(outputs):
            with variables(users[0]) as found:
                held = [(name, value) for name, value in found.items() if name[:1] != "_"]
            names = self._names[key] = tuple(
                next((name for name, value in held if value is output), "") for output in outputs
            )
        return names

    def _read(self, running: Running, moment: str) -> None:
        if not running.request.accumulates:
            return
        leaves, is_after = running.graph.leaves, moment == "after"
        arrived = running.watch.taken_over() if is_after else {}
        left = []
        for index, buffer in running.leaves.items():
            leaf = self._modules.holder(leaves[index])
            if not is_leaf(leaf):
                continue  # has become a result: the engine refuses to run the node
            same, row = arrived.get(index, ((), -1))
            content = leaf.grad if row >= 0 else None
            if content is None or identity(content) != same:
                left.append((buffer, leaf))
            else:
                running.readings.append((buffer, moment, self._journal.form(content), row))
                running.found[buffer] = (same, row)
        rest = read_buffers(left, moment, running.shelf, self._journal)
        running.readings += rest
        if is_after:
            others = dict(left)
            for buffer, _, _, found in rest:
                content = grad_of(others[buffer])
                if content is not None and found is not None:
                    running.found[buffer] = (identity(content), found)

    def _end(self, running: Running, outcome: str, result: Any) -> None:
        try:
            with quietly():
                running.watch.unhook()
                if running.nested_in is None:
                    for action in self.after_each:
                        action()
                if self.recording:
                    self._write(running, outcome, result)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _write(self, running: Running, outcome: str, result: Any) -> None:
        seconds = self._journal.seconds() - running.started
        captures = self._captures(running, result)
        self._read(running, "after")
        measured = running.shelf.fetch()
        running.left = {
            buffer: Left(same, measured.row(row))
            for buffer, (same, row) in running.found.items()
            if can_be_put(same)
        }
        graph, request = running.graph, running.request
        structure = structure_of(graph, running.leaves, self._journal)
        layout = describe_call(
            self._journal, structure, graph, running.watch.taken, measured.rows, running.roots,
            captures, running.readings,
        )  # fmt: skip
        self._journal.add(
            Call(
                order=running.order,
                layout=layout,
                entry="backward" if request.accumulates else "grad",
                step=running.step,
                source=running.source,
                thread=threading.get_ident(),
                retain_graph=request.retain_graph,
                create_graph=request.create_graph,
                accumulates=request.accumulates,
                inputs=len(request.inputs),
                nested_in=running.nested_in,
                started=running.started,
                seconds=seconds,
                outcome=outcome,
                measurements=measured.measurements,
                values=measured.values,
                scalars=tuple(
                    float(number) for saved in graph.saved for _, number in saved.numbers
                ),
                batch=running.batch,
                again=running.again,
            )
        )

    def _captures(self, running: Running, result: Any) -> list[Capture]:
        """What `autograd.grad` hands back, matched to the place in the graph it was taken at."""
        if running.request.accumulates or not isinstance(result, tuple | list):
            return []
        graph = running.graph
        leaves = {id(leaf): graph.nodes[index] for index, leaf in graph.leaves.items()}
        captures = []
        for position, (target, gradient) in enumerate(
            zip(running.request.inputs, result, strict=False)
        ):
            node, place = _target(target, leaves)
            index = graph.index.get(node)
            if index is None:
                continue
            form = row = None
            if gradient is not None:
                form, row = self._journal.form(gradient), running.shelf.add(gradient)
            captures.append(Capture(position, index, place, form, row))
        return captures


def _is_compiled() -> bool:
    """Whether torch.compile is tracing us, or has taken the engine's place."""
    if torch.compiler.is_compiling():
        return True
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return bool(module and getattr(module, "compiled_autograd_enabled", False))


def _has_graph(outputs: Sequence[Any]) -> bool:
    """Whether there is a way back from all of them; if not, the engine says so to the user."""
    return all(not isinstance(o, torch.Tensor) or _leads_back(o) for o in outputs)


def _leads_back(output: torch.Tensor) -> bool:
    """Torch refuses to tell the node of some views: see `node_of`."""
    return output.requires_grad and (node_of(output) is not None or is_leaf(output))


def _place(output: Any) -> tuple[Any, int]:
    """The node and its input at which a root's gradient enters."""
    if not isinstance(output, torch.Tensor):
        return output[0], output[1]  # a GradientEdge
    node = node_of(output)
    if node is not None:
        return node, output.output_nr
    edge = torch.autograd.graph.get_gradient_edge(output)
    return edge.node, edge.output_nr


def _target(target: Any, leaves: dict[int, Any]) -> tuple[Any, int]:
    """The node and input at which `autograd.grad` takes the gradient of `target`."""
    if not isinstance(target, torch.Tensor):
        return target[0], target[1]
    node = node_of(target)
    if node is not None:
        return node, target.output_nr
    return leaves.get(id(target)), 0
