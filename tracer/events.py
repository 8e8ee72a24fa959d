"""Every fact that a trace can hold, as frozen dataclasses.

Recording makes them, the trace file keeps them, reading gets the very same ones back. None of them
says what a fact means: that is decided later, by rules (`tracer.semantics`).

Numbers that name things: `Source`, `Module`, `Buffer`, `Form`, `Structure` and `Layout` are
interned, each counted from 0 in its own table. `Call`, `Step`, `Reset` and `Edit` are events: their
`order` is one count over the whole run, so that sorting by it gives back what happened when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Union

__all__ = [
    "FINGERPRINT_LENGTH",
    "ROW_WIDTH",
    "SMALL",
    "Buffer",
    "Call",
    "Capture",
    "Contribution",
    "Edge",
    "Edit",
    "Event",
    "Form",
    "Layout",
    "Measurement",
    "Module",
    "Node",
    "NodeState",
    "Reading",
    "Receipt",
    "Reset",
    "Root",
    "RunInfo",
    "Shape",
    "Source",
    "Step",
    "Structure",
]

Shape = tuple[int, ...]

FINGERPRINT_LENGTH = 8
"""How many numbers the fixed random projection of a tensor has."""

ROW_WIDTH = 5 + FINGERPRINT_LENGTH
"""Numbers of one measured tensor: sum (real, imaginary), norm, largest, non-finite, fingerprint."""

SMALL = 16
"""Tensors of at most this many elements are kept whole, beside their measurements."""


@dataclass(frozen=True)
class RunInfo:
    """One process that was recorded.

    `status` is "running" (it never said goodbye: killed, or still at work), "finished", or
    "crashed" (an exception left the script). `failure` is empty, or says why the tracer itself
    gave up before the script ended.
    """

    command: tuple[str, ...] = ()
    cwd: str = ""
    script: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    world: int = 1
    pid: int = 0
    started: float = 0.0
    status: str = "running"
    exit_code: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class Source:
    """A line of code outside torch and the standard library, and the one that called it.

    `text` is the line as it stood in the file when it ran, "" where there is no such file.
    """

    id: int
    file: str
    line: int
    function: str
    caller: int | None = None
    text: str = ""


@dataclass(frozen=True)
class Module:
    """An `nn.Module` that was called.

    `path` is its attribute path inside the root, "" for the root itself; `root` is the id of the
    outermost module around it, itself if it is one. `variable` is what the script calls a root, or
    of a replica the original. `replica` is the device index of a copy inside DataParallel, None
    outside.
    """

    id: int
    root: int
    path: str
    kind: str
    variable: str = ""
    replica: int | None = None


@dataclass(frozen=True)
class Buffer:
    """A leaf tensor whose `.grad` autograd writes.

    `name` is its path inside its root module, or the variable that holds it, or "" where neither
    is known. `is_parameter` tells an `nn.Parameter` from a plain tensor.
    """

    id: int
    name: str
    shape: Shape
    dtype: str
    device: str
    module: int | None = None
    is_parameter: bool = True


@dataclass(frozen=True)
class Form:
    """Shape, dtype and device of a gradient; -1 is the ragged dimension of a nested tensor."""

    id: int
    shape: Shape
    dtype: str
    device: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_complex(self) -> bool:
        return self.dtype.startswith("complex")


@dataclass(frozen=True)
class Node:
    """One autograd node of a structure, at `index`.

    `name` is torch's ("MeanBackward0"). `source` is the user's line that made it, `called` the
    torch function that this line called ("cross_entropy"; "" for an operator such as `*`), which
    the nodes of one composite function share. `custom` is the qualified name of a Python
    `autograd.Function`. `buffer` is set on the node that writes a leaf's `.grad`.
    """

    index: int
    name: str
    source: int | None = None
    module: int | None = None
    called: str = ""
    custom: str = ""
    buffer: int | None = None


@dataclass(frozen=True)
class Edge:
    """The link from output `output` of node `sender` to input `input` of node `receiver`."""

    sender: int
    output: int
    receiver: int
    input: int


@dataclass(frozen=True)
class Structure:
    """The graph of a backward call. One that repeats is stored once."""

    id: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Contribution:
    """What was sent along edge number `edge`. `row` is None where it was not measured."""

    edge: int
    form: int
    row: int | None


@dataclass(frozen=True)
class Receipt:
    """What node `node` received at `input`, after the hooks of the user before it."""

    node: int
    input: int
    form: int
    row: int | None


@dataclass(frozen=True)
class Root:
    """Where a backward call starts: a tensor, by the node and output that made it.

    `gradient` is the row of the gradient it starts with, `value` that of the tensor itself (a
    loss, usually); `name` is the script's variable, "" where there is none.
    """

    node: int
    input: int
    name: str
    form: int
    gradient: int | None
    value: int | None


@dataclass(frozen=True)
class Capture:
    """What `autograd.grad` handed back for the input at `position`, None where it was undefined."""

    position: int
    node: int
    input: int
    form: int | None
    row: int | None


@dataclass(frozen=True)
class Reading:
    """The content of a buffer at a moment: "before" or "after" a call, "consumed" by a step.

    No reading for a moment means that `.grad` was None then. Once per buffer, at the first recorded
    step that consumed it, "value" is the parameter itself as the step found it.
    """

    buffer: int
    moment: str
    form: int
    row: int | None


@dataclass(frozen=True)
class NodeState:
    """What is plain to read on a node in one call.

    `saved` has the plain attributes ("dim", "reduction", "self_sym_sizes"), `numbers` the names of
    those whose value is a number that may differ between calls: the values lie in `Call.scalars`
    from `first` on. `hooks` counts the hooks of the user that could have changed a gradient:
    before the node, after it, and on the buffer after accumulation. `ran` is whether the engine
    reached it.
    """

    node: int
    saved: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    first: int = 0
    hooks: tuple[int, int, int] = (0, 0, 0)
    ran: bool = True


@dataclass(frozen=True)
class Layout:
    """What repeats of an event beside its structure: where each measurement lies.

    `rows` gives for each row of the measurements its number of elements, whether they are complex
    and whether values are kept in double precision. `structure` is None for a step.
    """

    id: int
    structure: int | None
    rows: tuple[tuple[int, bool, bool], ...] = ()
    states: tuple[NodeState, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    roots: tuple[Root, ...] = ()
    captures: tuple[Capture, ...] = ()
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True)
class Call:
    """One run of the engine.

    `entry` is "backward" or "grad". `step` is the number of the step in whose window it falls,
    from 1. `nested_in` is the order of the call inside which it ran. `outcome` is "done", or the
    exception that left it. `started` is in seconds since the run began, `seconds` its duration.

    `batch` is the `DataLoader` that the process last drew from (numbered) and how many batches it
    had given by then, None before any. `again` has the nodes that ran in an earlier call already,
    whose graph was retained, without those behind them; each with the order of that call.
    """

    order: int
    layout: int
    entry: str
    step: int
    source: int | None = None
    thread: int = 0
    retain_graph: bool = False
    create_graph: bool = False
    accumulates: bool = True
    inputs: int = 0
    nested_in: int | None = None
    started: float = 0.0
    seconds: float = 0.0
    outcome: str = "done"
    measurements: bytes = b""
    values: bytes = b""
    scalars: tuple[float, ...] = ()
    batch: tuple[int, int] | None = None
    again: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Step:
    """One `optimizer.step()`, number `step` of the run, from 1.

    `groups` has a dict per parameter group: the plain options ("lr", "momentum", ...), "buffers",
    the ids of its leaves that `.grad` was read of, and "frozen", those that need no gradient.
    """

    order: int
    step: int
    layout: int
    optimizer: int
    kind: str
    groups: tuple[dict[str, Any], ...] = ()
    source: int | None = None
    started: float = 0.0
    outcome: str = "done"
    measurements: bytes = b""
    values: bytes = b""


@dataclass(frozen=True)
class Reset:
    """One `zero_grad()` of an optimizer or a module: which buffers, to zeros or to None."""

    order: int
    step: int
    by: str
    set_to_none: bool
    buffers: tuple[int, ...] = ()
    source: int | None = None
    started: float = 0.0


@dataclass(frozen=True)
class Edit:
    """A change of buffers by a function of torch that is known to change them, or an AMP decision.

    `kind` and its `details`:

    - "clip_grad_norm": max_norm, total_norm, coefficient (at most 1, as it was applied)
    - "clip_grad_value": clip_value
    - "unscale": scale, the number the gradients were divided by
    - "step_skipped": kind of the optimizer; GradScaler left out its step, gradients were not finite
    - "scale_update": before, after: the loss scale

    The first three have readings "before" and "after" of each buffer they were given.
    """

    order: int
    step: int
    layout: int
    kind: str
    details: dict[str, Any] = field(default_factory=dict)
    source: int | None = None
    started: float = 0.0
    measurements: bytes = b""
    values: bytes = b""


Event = Union[Call, Step, Reset, Edit]


@dataclass(frozen=True)
class Measurement:
    """A gradient as the trace keeps it.

    `sum` is complex for complex tensors. `norm` is L2, `largest` the largest magnitude. Where
    `nonfinite` is not 0 the other numbers may be NaN or infinite. `fingerprint` is a fixed random
    projection: that of a sum is the sum of theirs. `values` has all elements where they are few.
    """

    elements: int
    sum: float | complex
    norm: float
    largest: float
    nonfinite: int
    fingerprint: tuple[float, ...]
    values: tuple[float | complex, ...] | None = None

    @property
    def is_uniform(self) -> bool:
        """Whether every element has the same value: sum^2 = n norm^2 (Cauchy-Schwarz is tight)."""
        if self.elements <= 1:
            return True
        spread = self.elements * self.norm**2
        return math.isclose(abs(self.sum) ** 2, spread, rel_tol=1e-5) and spread > 0
