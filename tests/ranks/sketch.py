"""Jobs of several ranks made by hand: what each computed, exchanged and consumed, in a few lines.

Gradients are uniform, as in `tests.graph.sketch`: one value says all that is measured of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.graph.sketch import Grad, Op, Rows, Sketch
from tracer.events import (
    Exchange,
    Group,
    Layout,
    Piece,
    RunInfo,
    Use,
    Wrapper,
)
from tracer.runfiles import file_of_rank

SHAPE = (4,)


def mean_of(items: int, line: int = 3) -> Op:
    return Op("MeanBackward0", line, saved={"self_sym_sizes": [items]})


class RankSketch(Sketch):
    """The trace of one rank: one buffer `w`, a group of all ranks, perhaps DDP around the model."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        world: int,
        *,
        ddp: bool = True,
        hook: str = "",
        simulated: bool = False,
    ) -> None:
        super().__init__(file_of_rank(folder / "run.trace", rank))
        names = tuple(file_of_rank(folder / "run.trace", other).name for other in range(world))
        self._info = RunInfo(
            command=("train.py",), script="train.py", rank=rank, world=world, job="a job",
            siblings=() if simulated else names, launcher="torchrun", backend="gloo",
            simulated=simulated,
        )  # fmt: skip
        self.rank, self.world = rank, world
        self._writer.describe(self._info)
        self._writer.commit()
        self._writer.add(Group(0, "0", tuple(range(world)), "gloo"))
        self.w = self.buffer("w", SHAPE)
        self.ddp = ddp
        if ddp:
            self._writer.add(Wrapper(0, "DDP", None, 0, ((self.w,),), {"hook": hook}))

    def forward(
        self, divisor: float | None = None, line: int = 5, synchronises: bool = True
    ) -> None:
        use = Use(self._tick(), 1, 0, synchronises, divisor, self.source(line))
        self._writer.add(use)

    def backward(
        self,
        grad: float,
        items: int = 8,
        *,
        after: float | None = None,
        before: float | None = None,
        scale: float = 1.0,
        step: int = 1,
        line: int = 6,
    ) -> int:
        """`(items of w).mean().backward()`: the buffer receives `grad`; the order of the call."""
        each = Grad((items,), scale / items)
        operations = [mean_of(items), Op("SinBackward0", 2), Op("AccumulateGrad", buffer=self.w)]
        if scale != 1:
            operations = [Op("MulBackward0", 4, saved={"other": scale}), *operations]
            sent: list[Any] = [(0, 1, Grad((), scale)), (1, 2, each), (2, 3, Grad(SHAPE, grad))]
        else:
            sent = [(0, 1, each), (1, 2, Grad(SHAPE, grad))]
        self.call(
            operations, sent, step=step, line=line,
            before={} if before is None else {self.w: Grad(SHAPE, before)},
            after={} if after is None else {self.w: Grad(SHAPE, after)},
        )  # fmt: skip
        return self._order - 1

    def exchange(
        self,
        entered: float,
        left: float,
        *,
        op: str = "sum",
        kind: str = "all_reduce",
        call: int | None = None,
        found: str = "memory",
        factor: float | None = None,
        step: int = 1,
        line: int = 7,
        root: int | None = None,
        is_wrapped: bool | None = None,
    ) -> None:
        """An all-reduce of the whole gradient: what this rank put in, and what came back."""
        rows = Rows()
        wrapped = self.ddp if is_wrapped is None else is_wrapped
        pieces = tuple(
            Piece(
                moment, 0, 0, 4, self._form(Grad(SHAPE)), rows.add(Grad(SHAPE, value)), "gradient",
                self.w, 0, 4, 4, found,
            )
            for moment, value in (("entered", entered), ("left", left))
        )  # fmt: skip
        layout = Layout(self._next(Layout), None, rows=tuple(rows.sizes), pieces=pieces)
        self._writer.add(layout)
        self._writer.add(
            Exchange(
                self._tick(), step, layout.id, kind, op, 0, factor, root, call, None,
                0 if wrapped else None, 0 if wrapped else None, False, self.source(line),
                measurements=bytes(rows.measurements), values=bytes(rows.values),
            )
        )  # fmt: skip

    def consume(self, value: float, step: int = 1, line: int = 20) -> None:
        self.step({self.w: Grad(SHAPE, value)}, step=step, line=line)


def ddp_job(
    folder: Path,
    grads: Sequence[float] = (1.0, 3.0),
    items: Sequence[int] | None = None,
    *,
    missing: Sequence[int] = (),
) -> Path:
    """One step of DDP with its default reducer: each rank divides, then all are added."""
    world = len(grads)
    mean = sum(grads) / world
    for rank, grad in enumerate(grads):
        if rank in missing:
            continue
        sketch = RankSketch(folder, rank, world)
        sketch.forward(divisor=world)
        call = sketch.backward(grad, items[rank] if items else 8, after=mean)
        sketch.exchange(grad / world, mean, call=call)
        sketch.consume(mean)
        sketch.close()
    return folder
