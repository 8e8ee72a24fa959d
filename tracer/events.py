"""Every fact that a trace can hold, as frozen dataclasses.

Recording makes them, the trace file keeps them, reading gets the very same ones back. None of them
says what a fact means: that is decided later, by rules (`tracer.semantics`).

Numbers that name things: `Source`, `Module`, `Buffer`, `Form`, `Structure`, `Layout`, `Group` and
`Wrapper` are interned, each counted from 0 in its own table. `Call`, `Step`, `Reset`, `Edit`,
`Exchange` and `Use` are events: their `order` is one count over the whole run of one process, so
that sorting by it gives back what happened when. Ranks are numbers of the whole job everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union

__all__ = [
    "DETAILS",
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
    "Exchange",
    "Form",
    "Group",
    "Layout",
    "Measurement",
    "Module",
    "Node",
    "NodeState",
    "Part",
    "Piece",
    "Reading",
    "Receipt",
    "Reset",
    "Root",
    "RunInfo",
    "Shape",
    "Source",
    "Step",
    "Structure",
    "Use",
    "Wrapper",
]

Shape = tuple[int, ...]

FINGERPRINT_LENGTH = 8
"""How many numbers the fixed random projection of a tensor has."""

ROW_WIDTH = 5 + FINGERPRINT_LENGTH
"""Numbers of one measured tensor: sum (real, imaginary), norm, largest, non-finite, fingerprint."""

DETAILS = ("edges", "buffers", "structure")
"""What is measured of a run: all gradients; those in buffers, at roots and between ranks; none."""

SMALL = 16
"""Tensors of at most this many elements are kept whole, beside their measurements."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One process that was recorded.

    `status` is "running" (it never said goodbye: killed, or still at work), "finished", or
    "crashed" (an exception left the script). `failure` is empty, or says why the tracer itself
    gave up before the script ended.

    Of a job of several processes: `rank` of `world`, `local_rank` on its machine; `launcher` is who
    started it: "torchrun", "children" (of the traced script: mp.spawn, Lightning), "simulation",
    "environment" (whoever set RANK), "" for a single process;
    `backend` that of the default process group. `siblings` are the names of the files of all ranks,
    in the order of ranks, beside this one; `job` is a text that they share. `simulated`: this is
    the only process, and stands for all ranks, taken to be equal.
    """

    command: tuple[str, ...] = ()
    cwd: str = ""
    script: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    launcher: str = ""
    backend: str = ""
    job: str = ""
    siblings: tuple[str, ...] = ()
    simulated: bool = False
    pid: int = 0
    started: float = 0.0
    status: str = "running"
    exit_code: int | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A line of code outside torch and the standard library, and the one that called it.

    `text` is the line as it stood in the file when it ran, "" where there is no such file. `within`
    are the first lines of the loops, conditions and the like around it in its function, outermost
    first: "for x, y in loader:", "if step % 4 == 0:". `assigned` are the lines shortly before it
    that gave its variables their values.
    """

    id: int
    file: str
    line: int
    function: str
    caller: int | None = None
    text: str = ""
    within: tuple[str, ...] = ()
    assigned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """An `nn.Module` that was called.

    `path` is its attribute path inside the root, "" for the root itself; `root` is the id of the
    outermost module around it, itself if it is one. `variable` is what the script calls a root, or
    of a replica the original. `replica` is the device index of a copy inside DataParallel, None
    outside. `devices` is over how many a DataParallel spreads its batches.
    """

    id: int
    root: int
    path: str
    kind: str
    variable: str = ""
    replica: int | None = None
    devices: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A process group: its members in the order of their ranks inside it.

    `dimension` is what a device mesh calls it ("dp", "tp"), "" outside of one.
    """

    id: int
    name: str
    ranks: tuple[int, ...]
    backend: str
    dimension: str = ""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What exchanges gradients for a module: DDP, FSDP; made anew where something of it changes.

    `kind` is "DDP", "FSDP1" or "FSDP2", `module` the wrapped module, `group` the one it reduces
    over. `buckets` are the buffers that are exchanged together, in the order of the bucket, as far
    as they are laid out yet. `details`:

    - DDP: hook ("" for the default reducer, which divides by the ranks before it adds),
      gradient_as_bucket_view, static_graph, find_unused_parameters, bucket_cap_mb
    - FSDP2: predivide and postdivide, by what it divides before and after it reduces (None: it does
      not); divide_factor where one was set; replicas, the group of copies under HSDP
    - FSDP1: strategy, use_orig_params, predivide, postdivide, hook; replicas, as above
    """

    id: int
    kind: str
    module: int | None
    group: int | None
    buckets: tuple[tuple[int, ...], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Elements of a parameter that lie one after the other in another tensor, from `at` on.

    `name` and `shape` are the parameter's own, whole and unwrapped. Element j of the part, from 0,
    is element `start + j // run * stride + j % run` of the parameter, counted in row-major order:
    a part in one piece has run = elements; columns 2 and 3 of a (5, 4) parameter have start 2,
    elements 10, run 2, stride 4.
    """

    name: str
    shape: Shape
    start: int
    elements: int
    run: int
    stride: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Buffer:
    """A leaf tensor whose `.grad` autograd writes.

    `name` is its path inside its root module, or the variable that holds it, or "" where neither
    is known. `is_parameter` tells an `nn.Parameter` from a plain tensor.

    `parts` is empty for a parameter that this rank holds whole. Of a sharded one it is the one
    part that this rank holds, and the gradient's fingerprint is taken with the signs of the whole
    parameter: those of all ranks add up to that of the whole. A flat parameter (FSDP1) has a part
    for each parameter in it; its own fingerprint is that of the flat one of all ranks.
    `placements` of a DTensor: per dimension of its mesh the group, and "Shard(0)", "Replicate()"...
    """

    id: int
    name: str
    shape: Shape
    dtype: str
    device: str
    module: int | None = None
    is_parameter: bool = True
    parts: tuple[Part, ...] = ()
    placements: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Node:
    """One autograd node of a structure, at `index`.

    `name` is torch's ("MeanBackward0"). `source` is the user's line that made it, `called` the
    torch function that this line called ("cross_entropy"; "" for an operator such as `*`), which
    the nodes of one composite function share; with its rate where it drops values
    ("dropout(p=0.5)"). `custom` is the qualified name of a Python
    `autograd.Function`. `buffer` is set on the node that writes a leaf's `.grad`.
    """

    index: int
    name: str
    source: int | None = None
    module: int | None = None
    called: str = ""
    custom: str = ""
    buffer: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """The link from output `output` of node `sender` to input `input` of node `receiver`."""

    sender: int
    output: int
    receiver: int
    input: int


@dataclass(frozen=True, slots=True)
class Structure:
    """The graph of a backward call. One that repeats is stored once."""

    id: int
    nodes: Sequence[Node]
    edges: Sequence[Edge]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What was sent along edge number `edge`. `row` is None where it was not measured."""

    edge: int
    form: int
    row: int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What node `node` received at `input`, after the hooks of the user before it."""

    node: int
    input: int
    form: int
    row: int | None


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Capture:
    """What `autograd.grad` handed back for the input at `position`, None where it was undefined."""

    position: int
    node: int
    input: int
    form: int | None
    row: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a buffer at a moment: "before" or "after" a call, "consumed" by a step.

    No reading for a moment means that `.grad` was None then. Once per buffer, at the first recorded
    step that consumed it, "value" is the parameter itself as the step found it.
    """

    buffer: int
    moment: str
    form: int
    row: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some elements of a tensor that entered or left an exchange, at a moment.

    `moment` is "entered" or "left", `tensor` the position of the tensor in what was handed over,
    `at` the first element in it, `form` the tensor's. `peer` is the rank whose place in the tensor
    it is: to which it goes (reduce_scatter, all_to_all, scatter) or from which it came.

    `content` is "gradient", "parameter" or "" where that is not known. With a `buffer` it is that
    part of the buffer's gradient (or of the parameter itself), as in `Part`, and the fingerprint is
    taken with the signs of the whole parameter. `found` says how the buffer was recognised:
    "memory" (they are the very elements of the `.grad` or of the wrapper's bucket), "wrapper" (it
    laid them out), "size" (a copy with as many elements as one bucket, in its order: a hook's),
    "values" (a copy with the values of the `.grad`s, one after the other). Elements that belong to
    no buffer (padding) are in no piece. `row` is None where it was not measured: parameters.

    `tracked`: the tensor stood in the autograd graph (it required gradients).
    """

    moment: str
    tensor: int
    at: int
    elements: int
    form: int
    row: int | None
    content: str = ""
    buffer: int | None = None
    start: int = 0
    run: int = 0
    stride: int = 0
    found: str = ""
    peer: int | None = None
    tracked: bool = False


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is plain to read on a node in one call.

    `saved` has the plain attributes ("dim", "reduction", "self_sym_sizes"), `numbers` the names of
    those whose value is a number that may differ between calls: the values lie in `Call.scalars`
    from `first` on. `hooks` counts the hooks of the user that could have changed a gradient:
    before the node, after it, and on the buffer after accumulation; "hooked_at" in `saved` has the
    lines that registered them. `ran` is whether the engine reached it.
    """

    node: int
    saved: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    first: int = 0
    hooks: tuple[int, int, int] = (0, 0, 0)
    ran: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """What repeats of an event beside its structure: where each measurement lies.

    `rows` gives for each row of the measurements its number of elements, whether they are complex
    and whether values are kept in double precision. `structure` is None except for a call.
    """

    id: int
    structure: int | None
    rows: Sequence[tuple[int, bool, bool]] = ()
    states: Sequence[NodeState] = ()
    contributions: Sequence[Contribution] = ()
    receipts: Sequence[Receipt] = ()
    roots: tuple[Root, ...] = ()
    captures: tuple[Capture, ...] = ()
    readings: tuple[Reading, ...] = ()
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Reset:
    """One `zero_grad()` of an optimizer or a module: which buffers, to zeros or to None."""

    order: int
    step: int
    by: str
    set_to_none: bool
    buffers: tuple[int, ...] = ()
    source: int | None = None
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of buffers by a function of torch that is known to change them, or an AMP decision.

    `kind` and its `details`:

    - "clip_grad_norm": max_norm, total_norm, coefficient (at most 1, as it was applied)
    - "clip_grad_value": clip_value
    - "unscale": scale, the number the gradients were divided by
    - "step_skipped": kind of the optimizer; GradScaler left out its step, gradients were not finite
    - "scale_update": before, after: the loss scale

    - "terms": of the next backward call, what each term of its loss would send to each buffer: see
      `tracer.record.terms`. terms: node and output that each comes from; buffers; for each buffer
      dots (<part, whole> of each term), norms (of each part), squares (<whole, whole>). Or skipped:
      why the call was left out

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


@dataclass(frozen=True, slots=True)
class Exchange:
    """One operation of `torch.distributed` that this rank took part in.

    `kind` is "all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "reduce",
    "gather", "scatter", "send", "recv" or "barrier". `op` is "sum", "avg", "premul_sum" (with
    `factor`: multiplied, then added), "min", "max", "product"..., "" where nothing is reduced, or
    torch (2.6) does not tell.
    `root` is the rank that a broadcast comes from, a reduce goes to, or the peer of a send.

    `call` is the order of the backward call inside which it ran, `node` the node at work in it
    (DDP's buckets leave from an AccumulateGrad). `wrapper` is the one whose gradients it exchanges,
    `bucket` its number there.

    What entered was measured before the operation began; what left after it was done, when someone
    waited for it or its call ended. `outcome` is "done", "unfinished" (nobody had waited for it
    when recording stopped: nothing left), or the exception that it ended with.
    """

    order: int
    step: int
    layout: int
    kind: str
    op: str
    group: int
    factor: float | None = None
    root: int | None = None
    call: int | None = None
    node: int | None = None
    wrapper: int | None = None
    bucket: int | None = None
    is_async: bool = False
    source: int | None = None
    started: float = 0.0
    outcome: str = "done"
    measurements: bytes = b""
    values: bytes = b""


@dataclass(frozen=True, slots=True)
class Use:
    """One forward of a wrapper.

    `synchronises`: whether the backward calls after it exchange gradients (False inside `no_sync`).
    `divisor` is by what DDP's default reducer divides before it adds; None where that is not known,
    or is left to a hook.
    """

    order: int
    step: int
    wrapper: int
    synchronises: bool
    divisor: float | None = None
    source: int | None = None
    started: float = 0.0


Event = Union[Call, Step, Reset, Edit, Exchange, Use]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A gradient as the trace keeps it.

    `sum` is complex for complex tensors. `norm` is L2, `largest` the largest magnitude. Where
    `nonfinite` is not 0 the other numbers may be NaN or infinite. `fingerprint` is a fixed random
    projection: that of a sum is the sum of theirs. It is empty where it was not taken: of a large
    gradient that lies transposed in memory, and goes to one node alone that passes on the memory
    as it is; what that node sends has one. `values` has all elements where they are few.
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
