"""A trace made by hand, in a few lines: operations, what they send to whom, and where it ends.

Gradients are uniform: a shape and one value say all that is measured of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tracer.events import (
    FINGERPRINT_LENGTH,
    SMALL,
    Buffer,
    Call,
    Capture,
    Contribution,
    Edge,
    Form,
    Layout,
    Module,
    Node,
    NodeState,
    Reading,
    Receipt,
    Root,
    RunInfo,
    Shape,
    Source,
    Step,
    Structure,
)
from tracer.tracefile import TraceWriter

SCRIPT = "train.py"


@dataclass(frozen=True)
class Grad:
    """A gradient with the same value everywhere."""

    shape: Shape = ()
    value: float = 1.0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Op:
    """An autograd node: on a line of the script, in a module, perhaps the end at a buffer."""

    name: str
    line: int = 0
    module: int | None = None
    buffer: int | None = None
    called: str = ""
    custom: str = ""
    saved: dict[str, Any] = field(default_factory=dict)
    hooks: tuple[int, int, int] = (0, 0, 0)


Sent = tuple[int, int, Grad] | tuple[tuple[int, int], tuple[int, int], Grad]
"""Sender, receiver and what is sent; a pair names the output or input, which is 0 otherwise."""


class Rows:
    """Measured tensors, one after another."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, bool, bool]] = []
        self.measurements = bytearray()
        self.values = bytearray()

    def add(self, grad: Grad) -> int:
        n, value = grad.elements, grad.value
        print_ = [value * n * (k + 1) for k in range(FINGERPRINT_LENGTH)]
        bad = 0 if math.isfinite(value) else n
        self.measurements += struct.pack(
            f"<{5 + FINGERPRINT_LENGTH}f",
            value * n, 0.0, abs(value) * math.sqrt(n), abs(value), bad, *print_,
        )  # fmt: skip
        if n <= SMALL:
            self.values += struct.pack(f"<{n}f", *[value] * n)
        self.sizes.append((n, False, False))
        return len(self.sizes) - 1


class Sketch:
    """Writes a trace: modules and buffers first, then calls and steps in their order."""

    def __init__(self, path: Path, script: str = SCRIPT) -> None:
        self.path = path
        self._script = script
        self._info = RunInfo(command=(script,), script=script)
        self._writer = TraceWriter(path, self._info)
        self._interned: dict[Any, int] = {}
        self._counts = {Module: 0, Buffer: 0, Structure: 0, Layout: 0}
        self._order = 0

    def module(
        self,
        kind: str,
        path: str = "",
        root: int | None = None,
        variable: str = "",
        replica: int | None = None,
    ) -> int:
        id = self._next(Module)
        self._writer.add(Module(id, id if root is None else root, path, kind, variable, replica))
        return id

    def buffer(self, name: str, shape: Shape = (1,), module: int | None = None) -> int:
        id = self._next(Buffer)
        self._writer.add(Buffer(id, name, shape, "float32", "cpu", module))
        return id

    def call(
        self,
        operations: Sequence[Op],
        sent: Iterable[Sent],
        *,
        loss: float = 1.0,
        name: str = "loss",
        root: Grad = Grad(()),
        step: int = 1,
        line: int = 9,
        before: dict[int, Grad] | None = None,
        after: dict[int, Grad] | None = None,
        grad: bool = False,
        captures: dict[int, Grad] | None = None,
    ) -> None:
        """A backward call from node 0; what nodes receive is the sum of what they were sent."""
        rows = Rows()
        edges, contributions, received = self._edges(list(sent), rows)
        received.setdefault((0, 0), []).append(root)
        structure = self._structure(operations, edges)
        layout = Layout(
            self._next(Layout),
            structure,
            states=tuple(
                NodeState(index, op.saved, hooks=op.hooks) for index, op in enumerate(operations)
            ),
            contributions=tuple(contributions),
            receipts=tuple(self._receipts(received, rows)),
            roots=(Root(0, 0, name, self._form(root), rows.add(root), rows.add(Grad((), loss))),),
            captures=tuple(
                Capture(position, node, 0, self._form(tensor), rows.add(tensor))
                for position, (node, tensor) in enumerate((captures or {}).items())
            ),
            readings=tuple(
                Reading(buffer, moment, self._form(tensor), rows.add(tensor))
                for moment, tensors in (("before", before or {}), ("after", after or {}))
                for buffer, tensor in tensors.items()
            ),
            rows=tuple(rows.sizes),
        )
        self._writer.add(layout)
        self._writer.add(
            Call(
                self._tick(), layout.id, "grad" if grad else "backward", step,
                self.source(line), accumulates=not grad,
                measurements=bytes(rows.measurements), values=bytes(rows.values),
            )
        )  # fmt: skip

    def step(
        self, consumed: dict[int, Grad], *, step: int = 1, lr: float = 0.1, line: int = 20
    ) -> None:
        rows = Rows()
        readings = tuple(
            Reading(buffer, "consumed", self._form(tensor), rows.add(tensor))
            for buffer, tensor in consumed.items()
        )
        layout = Layout(self._next(Layout), None, rows=tuple(rows.sizes), readings=readings)
        self._writer.add(layout)
        groups = ({"lr": lr, "betas": [0.9, 0.99], "buffers": list(consumed)},)
        self._writer.add(
            Step(
                self._tick(), step, layout.id, 0, "SGD", groups, self.source(line),
                measurements=bytes(rows.measurements), values=bytes(rows.values),
            )
        )  # fmt: skip

    def close(self) -> Path:
        self._writer.close(replace(self._info, status="finished"))
        return self.path

    def source(self, line: int) -> int:
        def make(id: int) -> Source:
            return Source(id, self._script, line, "main")

        return self._intern(("source", line), make)

    def _form(self, grad: Grad) -> int:
        def make(id: int) -> Form:
            return Form(id, grad.shape, "float32", "cpu")

        return self._intern(("form", grad.shape), make)

    def _intern(self, key: tuple[str, Any], make: Any) -> int:
        if key not in self._interned:
            self._interned[key] = sum(1 for known in self._interned if known[0] == key[0])
            self._writer.add(make(self._interned[key]))
        return self._interned[key]

    def _next(self, kind: type) -> int:
        self._counts[kind] += 1
        return self._counts[kind] - 1

    def _tick(self) -> int:
        self._order += 1
        return self._order - 1

    def _edges(
        self, sent: list[Sent], rows: Rows
    ) -> tuple[list[Edge], list[Contribution], dict[tuple[int, int], list[Grad]]]:
        edges, contributions = [], []
        received: dict[tuple[int, int], list[Grad]] = {}
        for number, (tail, head, grad) in enumerate(sent):
            sender, output = tail if isinstance(tail, tuple) else (tail, 0)
            receiver, input = head if isinstance(head, tuple) else (head, 0)
            edges.append(Edge(sender, output, receiver, input))
            contributions.append(Contribution(number, self._form(grad), rows.add(grad)))
            received.setdefault((receiver, input), []).append(grad)
        return edges, contributions, received

    def _structure(self, operations: Sequence[Op], edges: list[Edge]) -> int:
        nodes = tuple(
            Node(
                index, op.name, self.source(op.line) if op.line else None, op.module, op.called,
                op.custom, op.buffer,
            )
            for index, op in enumerate(operations)
        )  # fmt: skip
        key = ("structure", (nodes, tuple(edges)))
        return self._intern(key, lambda id: Structure(id, nodes, tuple(edges)))

    def _receipts(
        self, received: dict[tuple[int, int], list[Grad]], rows: Rows
    ) -> Iterable[Receipt]:
        for (node, input), grads in sorted(received.items()):
            total = Grad(grads[0].shape, sum(grad.value for grad in grads))
            yield Receipt(node, input, self._form(total), rows.add(total))


def repeated(path: Path, calls: int = 3, batch: int = 4) -> Path:
    """`loss = (w * x).mean(); loss.backward()`, several times, and nobody clears w.grad."""
    sketch = Sketch(path, "repeated_backward.py")
    w = sketch.buffer("w")
    for number in range(calls):
        sketch.call(
            [
                Op("MeanBackward0", 14, saved={"self_numel": batch, "self_sym_sizes": [batch, 1]}),
                Op("MulBackward0", 14),
                Op("AccumulateGrad", buffer=w),
            ],
            [
                (0, 1, Grad((batch, 1), 1 / batch)),
                (1, 2, Grad((1,), 1.0)),
            ],
            line=15,
            before={w: Grad((1,), float(number))} if number else {},
            after={w: Grad((1,), number + 1.0)},
        )
    return sketch.close()


def blocks(path: Path, count: int = 4, calls: int = 2, step: bool = True) -> Path:
    """A model of equal blocks in a row, each with a layer and a residual sum, and a mean loss."""
    sketch = Sketch(path)
    root = sketch.module("Net", variable="model")
    layers, adds, buffers = [], [], []
    for number in range(count):
        adds.append(sketch.module("Block", f"blocks.{number}", root))
        layers.append(sketch.module("Linear", f"blocks.{number}.layer", root))
        buffers.append(sketch.buffer(f"blocks.{number}.layer.weight", (3, 3), layers[-1]))
    operations = [Op("MeanBackward0", 30, saved={"self_numel": 8})]
    sent: list[Sent] = []
    grad = Grad((8, 3), 0.125)
    for number in reversed(range(count)):
        first = len(operations)
        operations += [
            Op("AddBackward0", 12, adds[number], saved={"alpha": 1}),
            Op("MmBackward0", 11, layers[number]),
            Op("AccumulateGrad", buffer=buffers[number]),
        ]
        if number == count - 1:
            sent.append((0, first, grad))
        sent += [(first, first + 1, grad), ((first + 1, 1), first + 2, Grad((3, 3), 2.0))]
        if number:
            sent += [((first, 1), first + 3, grad), (first + 1, first + 3, grad)]
    for number in range(calls):
        before = {b: Grad((3, 3), 2.0 * number) for b in buffers} if number else {}
        after = {b: Grad((3, 3), 2.0 * (number + 1)) for b in buffers}
        sketch.call(operations, sent, line=31, before=before, after=after)
    if step:
        sketch.step({b: Grad((3, 3), 2.0 * calls) for b in buffers})
    return sketch.close()


def deep(path: Path, nodes: int) -> Path:
    """A chain of multiplications, one after another."""
    sketch = Sketch(path)
    w = sketch.buffer("w", (3,))
    operations = [Op("MulBackward0", 5, saved={"other": 1.5}) for _ in range(nodes)]
    operations.append(Op("AccumulateGrad", buffer=w))
    grad = Grad((3,), 0.5)
    sketch.call(operations, [(n, n + 1, grad) for n in range(nodes)], root=grad)
    return sketch.close()
