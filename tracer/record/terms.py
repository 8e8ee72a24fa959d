"""What each term of a loss sends to each buffer: the graph is run once more for every term.

The terms of `loss = box + 0.5 * objectness + ...` meet in additions above the root. For each of
them the engine is run with the gradient of that term alone, before the call of the script. Of what
would reach each leaf only products with the whole are kept: <part, whole> for every term, and
<whole, whole>. They add up, and no tensor outlives the call.

Nothing of this may be noticed, so `.grad` is never touched (the engine hands back what it would
have added), buffers of the graph are retained, and random number generators are put back. Calls are
left out, and it is said why, where a second run could be noticed: hooks of the user would run
again, saved tensors with hooks would be unpacked or computed again (offloading, checkpoints), ranks
would exchange again. A Python Function's `backward` does run again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, _engine_run_backward

from tracer.events import Edit
from tracer.record.deep import guard
from tracer.record.graphs import Graph
from tracer.record.hookcalls import RETAINS
from tracer.record.instrument import Instrument
from tracer.record.journal import Journal
from tracer.record.layouts import describe_readings
from tracer.record.measure import plain, quietly
from tracer.record.modules import Modules
from tracer.record.nodes import hooks_before, node_of
from tracer.record.sources import NodeWatch, Sources

__all__ = ["Terms"]

ENGINE = _engine_run_backward
"""The engine itself, taken before any recorder stands in its door."""

JOINING = ("AddBackward", "SubBackward", "StackBackward", "CatBackward")
PASSING = (
    *JOINING, "NegBackward", "MulBackward", "DivBackward", "SumBackward", "MeanBackward",
    "ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward", "SqueezeBackward",
    "UnsqueezeBackward", "ToCopyBackward", "AliasBackward", "CloneBackward",
)  # fmt: skip
"""Nodes of a loss that add its terms, or hand a single one on."""

MOST_TERMS = 16

Place = tuple[int, int]
"""A node and one of its outputs: where a term begins; or a node and one of its inputs."""


class Leave(Exception):
    """This call is left out, and why."""


class Terms(Instrument):
    """Stands before the one door to the engine, and looks at each term before the call goes in."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        nodes: NodeWatch,
        fail: Callable[[Exception], None],
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._nodes = nodes

    def start(self) -> None:
        door = self._before(torch.autograd.graph._engine_run_backward)
        self._patches.replace(torch.autograd.graph, "_engine_run_backward", door)
        self._patches.replace(torch.autograd, "_engine_run_backward", door)

    def _before(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def _engine_run_backward(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            accumulates = kwargs.get("accumulate_grad", False)
            if self.recording and accumulates and not _is_inside():
                self._look(outputs, args[0] if args else kwargs.get("grad_tensors"))
            return run(outputs, *args, **kwargs)

        return _engine_run_backward

    def _look(self, outputs: Sequence[Any], gradients: Sequence[Any] | None) -> None:
        try:
            if not all(_has_graph(output) for output in outputs) or gradients is None:
                return
            try:
                details = self._measured(tuple(outputs), tuple(gradients))
            except Leave as why:
                details = {"skipped": str(why)}
            if details:
                self._write(details)
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)

    def _measured(self, outputs: tuple[Any, ...], gradients: tuple[Any, ...]) -> dict[str, Any]:
        with quietly():
            graph = Graph((output.grad_fn, output.output_nr) for output in outputs)
        guard(graph)
        terms = _terms(graph, [graph.index[output.grad_fn] for output in outputs])
        if len(terms) < 2:
            return {}
        _check(graph, terms)
        leaves = [
            node.variable
            for node, kind in zip(graph.nodes, graph.kinds, strict=True)
            if kind.accumulates
        ]
        users = self._sources.lines(sys._getframe())
        buffers = [self._modules.buffer(leaf, users) for leaf in leaves]
        with self._unnoticed():
            sums = _Sums(leaves, self._run(outputs, gradients, leaves))
            edges = [GradientEdge(graph.nodes[n], place) for n, place in terms]
            for edge, gradient in zip(edges, self._run(outputs, gradients, edges), strict=True):
                parts = [None] * len(leaves)
                if gradient is not None:
                    parts = list(self._run((edge,), (gradient,), leaves))
                sums.add(parts)
        return {"terms": list(terms.values()), "buffers": buffers, **sums.fetch()}

    def _run(
        self, outputs: Sequence[Any], gradients: Sequence[Any], wanted: Sequence[Any]
    ) -> tuple[Any, ...]:
        """What the engine would add to each of the wanted."""
        entered = self._nodes.enter_engine(False)
        try:
            return tuple(
                ENGINE(
                    tuple(outputs), tuple(gradients), True, False, tuple(wanted),
                    allow_unreachable=True, accumulate_grad=False,
                )
            )  # fmt: skip
        except (RuntimeError, NotImplementedError) as error:
            # The script's own call will say so, if it fails as well; ours may lack memory for two.
            raise Leave(f"the extra pass failed: {type(error).__name__}") from error
        finally:
            self._nodes.leave_engine(entered)

    @contextmanager
    def _unnoticed(self) -> Iterator[None]:
        """Put the random number generators back."""
        cuda: Any = torch.cuda
        devices = range(cuda.device_count()) if cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=devices):
            yield

    def _write(self, details: dict[str, Any]) -> None:
        self._journal.add(
            Edit(
                order=self._journal.order(),
                step=self._journal.step,
                layout=describe_readings(self._journal, (), []),
                kind="terms",
                details=details,
                source=self._sources.here(sys._getframe()),
                started=self._journal.seconds(),
            )
        )


class _Sums:
    """The products of each term's part with the whole, for each leaf."""

    def __init__(self, leaves: Sequence[torch.Tensor], wholes: Sequence[Any]) -> None:
        self._wholes = [_flat(whole) for whole in wholes]
        self._dots: list[list[torch.Tensor | None]] = [[] for _ in leaves]
        self._squares: list[list[torch.Tensor | None]] = [[] for _ in leaves]

    def add(self, parts: Sequence[Any]) -> None:
        with quietly():
            for place, part in enumerate(parts):
                whole, flat = self._wholes[place], _flat(part)
                is_known = whole is not None and flat is not None
                self._dots[place].append(_dot(flat, whole) if is_known else None)
                self._squares[place].append(_dot(flat, flat) if is_known else None)

    def fetch(self) -> dict[str, Any]:
        """As plain numbers; waits for the devices."""
        with quietly():
            return {
                "dots": [[_number(dot) for dot in row] for row in self._dots],
                "norms": [[_number(square) ** 0.5 for square in row] for row in self._squares],
                "squares": [_number(_dot(whole, whole)) for whole in self._wholes],
            }


def _flat(gradient: Any) -> torch.Tensor | None:
    with quietly():
        found = None if gradient is None else plain(gradient)
        if found is None:
            return None
        if found.layout is not torch.strided:
            found = found.to_dense()
        if found.is_complex():
            found = torch.view_as_real(found.resolve_conj())
        return found.reshape(-1)


def _dot(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    return None if a is None or b is None else torch.dot(a.double(), b.double())


def _number(value: torch.Tensor | None) -> float:
    return 0.0 if value is None else float(value)


def _is_inside() -> bool:
    """Whether the engine is at work already: a nested call is part of the one around it."""
    return torch._C._current_graph_task_id() != -1


def _has_graph(output: Any) -> bool:
    return isinstance(output, torch.Tensor) and node_of(output) is not None


def _terms(graph: Graph, roots: Sequence[int]) -> dict[Place, Place]:
    """Where the terms of the loss are received, and the output that each is sent from."""
    found: dict[Place, Place] = {}
    feeding: Counter[Place] = Counter()
    stack: list[tuple[int, tuple[Place, Place] | None]] = [(root, None) for root in roots]
    seen: set[int] = set()
    while stack:
        number, term = stack.pop()
        edges = list(graph.outputs(number))
        is_new = number not in seen
        seen.add(number)
        if is_new and len(edges) > 1 and _is(graph, number, JOINING):
            for output, receiver, place in reversed(edges):
                feeding[receiver, place] += 1
                stack.append((receiver, ((receiver, place), (number, output))))
        elif is_new and len(edges) == 1 and _is(graph, number, PASSING):
            stack.append((edges[0][1], term))
        elif term is not None:
            found.setdefault(*term)
        else:
            return {}  # a root that is no sum of terms
    fed = graph.times_fed()
    for entered in found:
        if fed[entered] != feeding[entered]:
            raise Leave("a term of the loss is a part of another term too")
    return found


def _is(graph: Graph, number: int, names: tuple[str, ...]) -> bool:
    kind = graph.kinds[number]
    return kind.name.startswith(names) and not kind.custom and _is_of_loss(graph, number)


def _is_of_loss(graph: Graph, number: int) -> bool:
    """Inside modules only what computes a single number; a residual connection is no loss."""
    if graph.origins[number].module is None:
        return True
    shapes = [metadata.shape for metadata in graph.nodes[number]._input_metadata]
    return all(len(shape) == 0 for shape in shapes)


def _check(graph: Graph, terms: dict[Place, Place]) -> None:
    """Raises `Leave` where the user could notice a second run."""
    if len(terms) > MOST_TERMS:
        raise Leave(f"{len(terms)} terms, more than {MOST_TERMS}")
    distributed: Any = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        raise Leave("several ranks, which would exchange again")
    for node, kind, origin in zip(graph.nodes, graph.kinds, graph.origins, strict=True):
        if origin.lazy and not kind.accumulates:
            raise Leave(
                "saved tensors with hooks (checkpoints, offloading) would be unpacked again"
            )
        if _hooks(node) or node.metadata.get(RETAINS):
            raise Leave("hooks of the script would run again")
        if "Checkpoint" in kind.custom:
            raise Leave("a checkpoint would compute its forward again")


def _hooks(node: Any) -> int:
    """Hooks of the user that a run of this node would call."""
    before, after = node.register_prehook(_ignore), node.register_hook(_ignore)
    own = len(before.hooks_dict_ref()) + len(after.hooks_dict_ref()) - 2
    before.remove()
    after.remove()
    return hooks_before(node, own)


def _ignore(*gradients: object) -> None:
    """A hook that does nothing, placed only to be counted."""
