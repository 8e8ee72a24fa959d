"""What is written of ranks is read back as it was."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from tracer.events import (
    Buffer,
    Exchange,
    Form,
    Group,
    Layout,
    Part,
    Piece,
    RunInfo,
    Use,
    Wrapper,
)
from tracer.tracefile import TraceWriter, load

INFO = RunInfo(
    rank=1, world=2, local_rank=1, launcher="torchrun", backend="gloo", job="j", simulated=False,
    siblings=("run.rank0.trace", "run.rank1.trace"),
)  # fmt: skip
GROUP = Group(0, "0", (0, 1), "gloo", "dp")
SHARD = Part("fc.weight", (4, 2), start=4, elements=4, run=4, stride=8)
BUFFER = Buffer(
    0, "module.fc.weight", (4, 2), "float32", "cpu", None, True, (SHARD,), ((0, "Shard(0)"),)
)
WRAPPER = Wrapper(0, "DDP", None, 0, ((0,),), {"hook": "", "static_graph": False})
PIECES = (
    Piece("entered", 0, 0, 4, 0, 0, "gradient", 0, 4, 4, 8, "memory", peer=1),
    Piece("left", 0, 0, 4, 0, None, tracked=True),
)
EXCHANGE = Exchange(
    3, 1, 0, "all_reduce", "premul_sum", 0, factor=0.5, root=None, call=2, node=7, wrapper=0,
    bucket=0, is_async=True, source=None, started=0.25, outcome="unfinished",
    measurements=struct.pack("<13f", *range(13)), values=struct.pack("<4f", 1, 2, 3, 4),
)  # fmt: skip
USE = Use(1, 1, 0, synchronises=False, divisor=2.0, started=0.125)


def test_facts_of_ranks_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "run.rank1.trace", INFO)
    layout = Layout(0, None, rows=((4, False, False),), pieces=PIECES)
    for fact in (GROUP, Form(0, (4,), "float32", "cpu"), BUFFER, WRAPPER, layout, EXCHANGE, USE):
        writer.add(fact)
    writer.close(INFO)

    with load(tmp_path / "run.rank1.trace") as trace:
        assert trace.info == INFO
        assert trace.groups == {0: GROUP}
        assert trace.buffers == {0: BUFFER}
        assert trace.wrappers == {0: WRAPPER}
        assert trace.layout(0) == layout
        blobless = replace(EXCHANGE, measurements=b"", values=b"")
        assert trace.exchanges == [blobless]
        assert trace.uses == [USE]
        assert trace.events == [USE, blobless]
        assert [m.values for m in trace.measurements(trace.exchanges[0])] == [(1, 2, 3, 4)]
