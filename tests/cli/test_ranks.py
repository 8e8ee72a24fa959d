"""Under torchrun each rank is recorded into a file of its own; real processes, real gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tracer.analysis.balance import check_balance
from tracer.tracefile import load

CLI = Path(__file__).parents[2] / "cli.py"

TRAINING = """
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    optimizer.zero_grad()
    torch.manual_seed(step + 10 * dist.get_rank())
    model(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
with open(f"end.{dist.get_rank()}", "w") as file:
    file.write(repr([p.tolist() for p in model.parameters()]))
del model, optimizer
dist.barrier()
time.sleep(1)  # gloo aborts a rank whose peer leaves while it still reads, traced or not
dist.destroy_process_group()
"""


def torchrun(folder: Path, *command: str | Path) -> list[str]:
    """Run two ranks; the parameters that each of them ends with."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(folder / f"end.{rank}").read_text() for rank in range(2)]


def test_ranks_end_alike_and_leave_a_trace_each(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    plain = torchrun(tmp_path, script)

    traced = torchrun(tmp_path, CLI, "trace", "--no-svg", script)

    assert traced == plain
    assert plain[0] == plain[1] != ""
    for rank in range(2):
        with load(tmp_path / f"train.rank{rank}.trace") as trace:
            assert (trace.info.rank, trace.info.world) == (rank, 2)
            assert len(trace.calls) == len(trace.steps) == 3
            report = check_balance(trace)
            assert report.imbalances == ()
            assert {i.explanation for i in report.hooked} == {"exchanged between 2 ranks"}
