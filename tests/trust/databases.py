"""PyTorch's own databases of operators, modules and optimizers, as little pieces of training.

Each piece is made anew for every run and returns the tensors that must be the same bits with and
without the recorder. `judge` runs the pieces of one entry both ways and does the books.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tracer
from tests.record.test_scenarios import bits
from tracer.analysis.balance import BalanceReport, check_balance
from tracer.events import Step
from tracer.tracefile import Trace

__all__ = ["Entry", "Tally", "judge", "modules", "operators", "optimizers"]

Piece = Callable[[], list[Tensor]]

REFUSALS = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError)
"""What torch says where it will not run a sample; it must say the very same when recorded."""


@dataclass(frozen=True)
class Entry:
    """One operator, module or optimizer: its pieces of training, and what its trace must hold."""

    name: str
    pieces: Callable[[], Sequence[Piece]]
    inspect: Callable[[Trace], Iterable[str]] = lambda trace: ()


@dataclass
class Tally:
    """What was run and how it ended."""

    what: str
    entries: int = 0
    samples: int = 0
    refused: int = 0
    calls: int = 0
    steps: int = 0
    fan_ins: int = 0
    buffers: int = 0
    unchecked: int = 0
    worst: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add_books(self, name: str, report: BalanceReport) -> None:
        self.fan_ins += report.fan_ins
        self.buffers += report.buffers
        self.unchecked += report.unchecked
        self.worst = max(self.worst, report.worst)
        self.problems += [f"{name}: {imbalance}" for imbalance in report.imbalances]

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.entries} entries, {self.samples} samples, same bits; "
            f"{self.calls} backward calls, {self.steps} steps, {self.fan_ins} fan-ins and "
            f"{self.buffers} buffers balance (worst error {self.worst:.1e}, {self.unchecked} not "
            f"finite or not measurable); torch itself refuses {self.refused}; "
            f"{len(self.problems)} problems"
        )


@dataclass(frozen=True)
class Outcome:
    """What a piece left: its tensors bit by bit, or what torch said instead."""

    left: tuple[bytes, ...] = ()
    refusal: str = ""


def judge(entry: Entry, path: Path, tally: Tally) -> None:
    """Run all pieces of an entry plain and recorded; note in the tally what differs."""
    plain = [outcome_of(piece) for piece in entry.pieces()]
    with tracer.Recorder(path) as recorder:
        recorded = [outcome_of(piece) for piece in entry.pieces()]
    ran = sum(not outcome.refusal for outcome in plain)
    tally.entries += ran > 0
    tally.samples += ran
    tally.refused += len(plain) - ran
    tally.reasons.update(f"{entry.name}: {o.refusal[:90]}" for o in plain if o.refusal)
    if recorder.failure:
        tally.problems.append(f"{entry.name}: {recorder.failure}")
    for number, (before, after) in enumerate(zip(plain, recorded, strict=True)):
        if before != after:
            tally.problems.append(f"{entry.name}, sample {number}: {difference(before, after)}")
    with tracer.load(path) as trace:
        tally.calls += len(trace.calls)
        tally.steps += len(trace.steps)
        tally.add_books(entry.name, check_balance(trace))
        tally.problems += [f"{entry.name}: {problem}" for problem in entry.inspect(trace)]


def outcome_of(piece: Piece) -> Outcome:
    torch.manual_seed(0)
    try:
        return Outcome(tuple(bits(strided(piece()))))
    except REFUSALS as refusal:
        return Outcome(refusal=f"{type(refusal).__name__}: {refusal}".partition("\n")[0])


def difference(before: Outcome, after: Outcome) -> str:
    if before.refusal != after.refusal:
        return f"plain {before.refusal or 'runs'!r}, recorded {after.refusal or 'runs'!r}"
    wrong = [n for n, (a, b) in enumerate(zip(before.left, after.left, strict=False)) if a != b]
    return f"other bits in {wrong} of {len(before.left)} and {len(after.left)} tensors"


def strided(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [t if t.layout is torch.strided else t.to_dense() for t in tensors]


def leaves(thing: Any) -> Iterator[Tensor]:
    """The tensors in a nest of lists and dicts that can have a gradient."""
    if isinstance(thing, Tensor):
        if thing.requires_grad:
            yield thing
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from leaves(item)
    elif isinstance(thing, dict):
        yield from leaves(list(thing.values()))


def backward(result: Any) -> None:
    """Backward of everything that a function returned, each element with a gradient of one."""
    roots = [t for t in leaves(result) if t.is_floating_point() or t.is_complex()]
    if not roots:
        raise ValueError("nothing to differentiate")
    torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


def gradients(thing: Any) -> list[Tensor]:
    return [leaf.grad for leaf in leaves(thing) if leaf.grad is not None]


# ---------------------------------------------------------------------------- op_db


def operators(dtype: torch.dtype) -> Iterator[Entry]:
    """Every operator with a backward, with all its sample inputs."""
    # torch's own test code: slow to import, and only these functions need it.
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if op.supports_autograd and dtype in op.supported_dtypes("cpu"):
            yield Entry(op.name, lambda op=op: operator_pieces(op, dtype))


def operator_pieces(op: Any, dtype: torch.dtype) -> list[Piece]:
    # Made anew for each run: some operators write into their samples (running statistics).
    torch.manual_seed(0)
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    return [lambda sample=sample: operator_run(op, sample) for sample in samples]


def operator_run(op: Any, sample: Any) -> list[Tensor]:
    inputs = [sample.input, sample.args, sample.kwargs]
    for leaf in leaves(inputs):
        leaf.grad = None
    backward(op(sample.input, *sample.args, **sample.kwargs))
    return gradients(inputs)


# ------------------------------------------------------------------------ module_db


def modules(dtype: torch.dtype) -> Iterator[Entry]:
    """Every module of torch.nn, in training and in evaluation mode, with all its sample inputs."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        if dtype in info.supported_dtypes("cpu"):
            yield Entry(info.name, lambda info=info: module_pieces(info, dtype), steps_hold_options)


def module_pieces(info: Any, dtype: torch.dtype) -> list[Piece]:
    torch.manual_seed(0)
    return [
        lambda sample=sample, training=training: module_run(info, sample, dtype, training)
        for training in (True, False)
        for sample in info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training
        )
    ]


def module_run(info: Any, sample: Any, dtype: torch.dtype, training: bool) -> list[Tensor]:
    """Two steps of training of the module and of its inputs."""
    made, given = sample.constructor_input, sample.forward_input
    module: nn.Module = info.module_cls(*made.args, **made.kwargs).to(dtype=dtype).train(training)
    inputs = copied([given.args, given.kwargs] if given is not None else [])
    if info.is_lazy:
        with torch.no_grad():
            module(*inputs[0], **inputs[1])
    trained = [*module.parameters(), *leaves(inputs)]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.5) if trained else None
    for _ in range(2):
        if optimizer is not None:
            optimizer.zero_grad()
        backward(module(*inputs[0], **inputs[1]))
        if optimizer is not None:
            optimizer.step()
    return [*trained, *gradients(trained), *module.buffers()]


def copied(thing: Any) -> Any:
    """Leaves of its own, so that a step of one run does not move the inputs of the next."""
    if isinstance(thing, Tensor):
        return thing.detach().clone().requires_grad_(thing.requires_grad)
    if isinstance(thing, list):
        return [copied(item) for item in thing]
    if isinstance(thing, tuple) and type(thing) is tuple:
        return tuple(copied(item) for item in thing)
    if isinstance(thing, dict):
        return {key: copied(value) for key, value in thing.items()}
    return thing


def steps_hold_options(trace: Trace) -> Iterator[str]:
    """What is wrong with the options of the recorded steps of `module_run`, if anything."""
    for step in trace.steps:
        options = step.groups[0]
        if (step.kind, options["lr"], options["momentum"]) != ("SGD", 0.01, 0.5):
            yield f"step {step.step} is recorded as {step.kind} with {options}"


# ------------------------------------------------------------------------- optim_db

STEPS = 3


def optimizers(dtype: torch.dtype) -> Iterator[Entry]:
    """Every optimizer of torch, in every configuration of theirs, with and without a closure."""
    from torch.testing._internal import common_optimizers as common

    for info in common.optim_db:
        if dtype.is_complex and not info.supports_complex:
            continue
        given = common._get_optim_inputs_including_global_cliquey_kwargs("cpu", dtype, info)
        configurations = [one.kwargs for one in given]
        # Listed for accelerators only, but a CPU takes the first and must refuse the second.
        if "foreach" in info.supported_impls:
            configurations += [{**one.kwargs, "foreach": True} for one in plain_ones(given)]
        if info.has_capturable_arg:
            configurations.append({"capturable": True, "lr": torch.tensor(0.01)})
        for options in configurations:
            for closure in (True,) if info.step_requires_closure else (False, True):
                for sparse in sparse_or_not(info, options, dtype):
                    yield Training(info, options, dtype, closure, sparse).entry()


def plain_ones(given: Iterable[Any]) -> list[Any]:
    """Those that ask for no implementation of their own."""
    return [one for one in given if not any(map(one.kwargs.get, ("differentiable", "fused")))]


def sparse_or_not(info: Any, options: dict[str, Any], dtype: torch.dtype) -> tuple[bool, ...]:
    """Whether the gradient of a table may be sparse, dense, or either."""
    if info.only_supports_sparse_grads:
        return (True,)
    if dtype.is_complex:
        return (False,)  # torch has no sparse gradients of complex tables
    plain = not options.get("weight_decay") and not options.get("differentiable")
    return (False, True) if info.supports_sparse and plain else (False,)


class Training:
    """A few steps of one optimizer in one configuration, on a table and a linear map behind it."""

    def __init__(
        self, info: Any, options: dict[str, Any], dtype: torch.dtype, closure: bool, sparse: bool
    ) -> None:
        self.info, self.options, self.dtype = info, options, dtype
        self.closure, self.sparse = closure, sparse
        self.groups: list[dict[str, Any]] = []
        self.ended = False

    def entry(self) -> Entry:
        words = [f"{key}={value}" for key, value in self.options.items()]
        words += ["with a closure"] * self.closure + ["sparse"] * self.sparse
        return Entry(f"{self.info.name}({', '.join(words)})", lambda: [self.run], self.inspect)

    def run(self) -> list[Tensor]:
        self.groups.clear()
        self.ended = False
        shapes = ((6, 4), (4, 3), (3,))
        leaves = [torch.randn(shape, dtype=self.dtype).requires_grad_() for shape in shapes]
        if self.options.get("differentiable"):
            left = self.through_a_step(leaves[:2])
        else:
            self.train(*leaves)
            left = [*leaves, *gradients(leaves)]
        self.ended = True
        return left

    def loss(self, table: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        picked = torch.tensor([0, 2, 2, 5])  # one row twice, two rows never
        rows = nn.functional.embedding(picked, table, sparse=True) if self.sparse else table[picked]
        return (rows @ weight + bias).abs().square().mean()

    def train(self, table: Tensor, weight: Tensor, bias: Tensor) -> None:
        matrices_only = self.info.name == "Muon" or self.sparse
        trained = [table, weight] if matrices_only else [table, weight, bias]
        optimizer = self.optimizer(trained[:1] if self.info.only_supports_sparse_grads else trained)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.loss(table, weight, bias)
            value.backward()
            return value

        for _ in range(STEPS):
            self.groups.append(plain_options(optimizer.param_groups[0]))
            if self.closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()

    def through_a_step(self, leaves: list[Tensor]) -> list[Tensor]:
        """Backward of what an optimizer did, down to where its gradients came from."""
        trained = [leaf.clone() for leaf in leaves]
        # Of copies: the step writes into the parameters themselves.
        loss = self.loss(*(parameter.clone() for parameter in trained))
        slopes = torch.autograd.grad(loss, trained, create_graph=True)
        for parameter, slope in zip(trained, slopes, strict=True):
            parameter.grad = slope
        optimizer = self.optimizer(trained)
        self.groups.append(plain_options(optimizer.param_groups[0]))
        optimizer.step((lambda: torch.zeros(())) if self.closure else None)
        sum(parameter.abs().sum() for parameter in trained).backward()
        return [*trained, *gradients(leaves)]

    def optimizer(self, trained: list[Tensor]) -> torch.optim.Optimizer:
        options = copy.deepcopy(self.options)  # a tensor as the learning rate is written to
        if self.info.supports_param_groups:
            return self.info.optim_cls([{"params": [one]} for one in trained], **options)
        return self.info.optim_cls(trained, **options)

    def inspect(self, trace: Trace) -> Iterator[str]:
        """What is wrong with the recorded steps, if anything."""
        if self.ended and len(trace.steps) != len(self.groups):
            yield f"{len(trace.steps)} steps recorded of {len(self.groups)}"
        for step, expected in zip(trace.steps, self.groups, strict=False):
            yield from self.wrong_options(step, expected)

    def wrong_options(self, step: Step, expected: dict[str, Any]) -> Iterator[str]:
        if step.kind != self.info.name:
            yield f"step {step.step} is recorded as {step.kind}"
        found = step.groups[0]
        for key, value in expected.items():
            if found.get(key) != value:
                yield f"step {step.step}: {key} was {value}, recorded {found.get(key)}"


def plain_options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a parameter group as a trace should hold them."""
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    for key, value in options.items():
        if isinstance(value, Tensor):
            options[key] = float(value)
        elif isinstance(value, tuple):
            options[key] = [float(one) if isinstance(one, Tensor) else one for one in value]
    return options
