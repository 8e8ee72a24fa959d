"""Jobs as people start them: every rank is found, nothing else is, and the job ends as it would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tracer.commands import launch
from tracer.runfiles import Run, load_run
from tracer.tracefile import load

CLI = Path(__file__).parents[2] / "cli.py"
SAMPLES = CLI.parent / "samples"

TRAINING = """
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def train(steps=2):
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        torch.manual_seed(step + 10 * dist.get_rank())
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
        yield step
    with open(f"end.{dist.get_rank()}", "w") as file:
        file.write(repr([p.tolist() for p in model.parameters()]))


def leave():
    dist.barrier()
    time.sleep(0.3)  # gloo aborts a rank whose peer leaves while it still reads, traced or not
    dist.destroy_process_group()
"""

PLAIN = (
    TRAINING
    + """
dist.init_process_group("gloo")
list(train())
leave()
"""
)

SPAWNING = (
    TRAINING
    + """
import torch.multiprocessing as mp


def work(rank, port):
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    list(train())
    leave()


if __name__ == "__main__":
    port = 20000 + os.getpid() % 20000
    mp.start_processes(work, args=(port,), nprocs=2, start_method=sys.argv[1])
    print("parent done")
"""
)

# As Lightning does it: the first process is rank 0 and starts the others with a command line.
STARTING = (
    TRAINING
    + """
import subprocess

local = int(os.environ.get("LOCAL_RANK", 0))
if local == 0:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(20000 + os.getpid() % 20000))
    other = subprocess.Popen([sys.executable, __file__], env={**os.environ, "LOCAL_RANK": "1"})
dist.init_process_group("gloo", rank=local, world_size=2)
list(train())
leave()
if local == 0:
    sys.exit(other.wait())
"""
)

DYING = (
    TRAINING
    + """
import signal

dist.init_process_group("gloo")
for step in train(steps=6):
    if step == 2 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""
)

FAILING = (
    TRAINING
    + """
dist.init_process_group("gloo")
for step in train(steps=6):
    if step == 2 and dist.get_rank() == 1:
        sys.exit(7)
"""
)

PREMULTIPLYING = """
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(2), op=dist._make_nccl_premul_sum(0.5))
"""

LOADING = """
import torch
from torch.utils.data import DataLoader

model = torch.nn.Linear(1, 1)
if __name__ == "__main__":
    loader = DataLoader(
        torch.ones(4, 1), batch_size=2, num_workers=1, multiprocessing_context="spawn"
    )
    for batch in loader:
        model(batch).sum().backward()
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip


def script(folder: Path, text: str) -> Path:
    path = folder / "train.py"
    path.write_text(text)
    return path


def endings(folder: Path) -> list[str]:
    return [(folder / f"end.{rank}").read_text() for rank in range(2)]


def check_ranks(job: Run, calls: int = 2) -> None:
    """Both are there, know one another, and took part in as many exchanges."""
    assert (list(job.ranks), job.missing, job.world) == ([0, 1], {}, 2)
    for rank, trace in job.ranks.items():
        info = trace.info
        assert (info.rank, info.world, info.backend, info.failure) == (rank, 2, "gloo", "")
        assert info.status == "finished"
        assert len(trace.calls) == calls
        assert len([e for e in trace.exchanges if e.wrapper is not None]) == calls
    assert len({trace.info.job for trace in job.ranks.values()}) == 1


def test_trace_starts_the_ranks_with_the_launcher_of_torch(tmp_path: Path) -> None:
    script(tmp_path, PLAIN)
    run(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py")
    plain = endings(tmp_path)

    done = run(
        tmp_path, CLI, "trace", "--no-svg", "--nproc-per-node", "2", "-o", "runs.trace", "train.py"
    )

    assert done.returncode == 0, done.stderr
    assert endings(tmp_path) == plain
    with load_run(tmp_path / "runs.rank1.trace") as job:
        check_ranks(job)
        assert {trace.info.launcher for trace in job.ranks.values()} == {"torchrun"}
        assert [trace.info.local_rank for trace in job.ranks.values()] == [0, 1]
    assert len(re.findall(r"^  recorded ", done.stderr, re.MULTILINE)) == 1
    assert "1/2 each" in done.stderr


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ranks_of_mp_spawn_are_found(tmp_path: Path, method: str) -> None:
    script(tmp_path, SPAWNING)
    run(tmp_path, "train.py", method)
    plain = endings(tmp_path)

    done = run(tmp_path, CLI, "trace", "--no-svg", "train.py", method)

    assert (done.returncode, done.stdout) == (0, "parent done\n"), done.stderr
    assert endings(tmp_path) == plain
    with load_run(tmp_path) as job:  # the parent, which recorded nothing, leaves no file
        check_ranks(job)
        assert {trace.info.launcher for trace in job.ranks.values()} == {"children"}
    assert len(re.findall(r"^  recorded ", done.stderr, re.MULTILINE)) == 1


def test_ranks_that_rank_0_starts_itself_are_found(tmp_path: Path) -> None:
    script(tmp_path, STARTING)

    done = run(tmp_path, CLI, "trace", "--no-svg", "train.py")

    assert done.returncode == 0, done.stderr
    with load_run(tmp_path) as job:
        check_ranks(job)
    assert len(re.findall(r"^  recorded ", done.stderr, re.MULTILINE)) == 1


def test_workers_of_a_loader_leave_nothing(tmp_path: Path) -> None:
    script(tmp_path, LOADING)

    done = run(tmp_path, CLI, "trace", "--no-svg", "train.py")

    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.py", "train.trace"]
    with load(tmp_path / "train.trace") as trace:
        assert (trace.info.world, len(trace.calls)) == (1, 2)


def launched(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return run(folder, *launcher, *command)


def test_ranks_of_two_machines_are_found(tmp_path: Path) -> None:
    """Two agents of torchrun, each with two ranks, that share a folder."""
    script(tmp_path, PLAIN)
    port = 20000 + os.getpid() % 20000
    agents = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}",
                "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}",
                CLI, "trace", "--no-svg", "train.py",
            ],
            cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=150)[1] for agent in agents]

    assert [agent.returncode for agent in agents] == [0, 0], said
    with load_run(tmp_path) as job:
        assert (list(job.ranks), job.missing, job.world) == ([0, 1, 2, 3], {}, 4)
        locals_of = [trace.info.local_rank for trace in job.ranks.values()]
        assert locals_of == [0, 1, 0, 1]
    assert len(re.findall(r"^  recorded ", "".join(said), re.MULTILINE)) == 1


def test_gloo_refuses_premul_sum_so_only_made_up_traces_have_it(tmp_path: Path) -> None:
    """If this fails, gloo has learnt it: then `tests.ranks.trainings` can have a setup of it."""
    script(tmp_path, PREMULTIPLYING)

    done = launched(tmp_path, "train.py")

    assert done.returncode == 1
    assert "Cannot use ReduceOp.PREMUL_SUM with Gloo" in done.stderr


def causes(job: subprocess.CompletedProcess[str]) -> set[str]:
    """How ranks ended; gloo now and then aborts (-6) while a rank that gave up exits."""
    found = set(re.findall(r"exitcode\s*:\s*(-?\d+)", job.stderr))
    return {"7" if cause == "-6" else cause for cause in found}


@pytest.mark.parametrize("text", [DYING, FAILING], ids=["killed", "exited"])
def test_a_rank_that_dies_leaves_the_job_as_it_would_be_and_readable_traces(
    tmp_path: Path, text: str
) -> None:
    script(tmp_path, text)
    plain = launched(tmp_path, "train.py")

    done = launched(tmp_path, CLI, "trace", "--no-svg", "train.py")

    assert done.returncode == plain.returncode == 1
    assert causes(done) == causes(plain) != set()
    with load_run(tmp_path) as job:
        assert (list(job.ranks), job.missing) == ([0, 1], {})
        ended = job.ranks[1].info
        assert ended.status == ("running" if text is DYING else "finished")
        assert ended.exit_code == (None if text is DYING else 7)
        assert len(job.ranks[1].calls) == 3
        assert len(job.ranks[0].calls) >= 3
    told = run(tmp_path, CLI, "explain", tmp_path)
    lines = told.stdout.splitlines()
    assert lines[0] == "2 ranks (torchrun, gloo)"
    how = "is incomplete: it was killed, or is still at work" if text is DYING else "exited with 7"
    assert any(line.startswith(f"  rank 1 {how}") for line in lines[1:3]), told.stdout
    assert "2 ranks, 1/2 each" in told.stdout


@pytest.mark.parametrize("option", [["--steps", "2:3"], ["--every", "2"]])
def test_ranks_that_record_other_steps_wait_for_nobody(
    tmp_path: Path, option: Sequence[str]
) -> None:
    """Rank 0 records all, rank 1 a few: the job ends, and ends alike."""
    script(tmp_path, PLAIN.replace("list(train())", "list(train(steps=5))"))
    launched(tmp_path, "train.py")
    plain = endings(tmp_path)
    wrapper = tmp_path / "each.py"
    wrapper.write_text(
        "import os, sys\n"
        f"own = {list(option)!r} if os.environ['RANK'] == '1' else []\n"
        f"os.execv(sys.executable, [sys.executable, {str(CLI)!r}, 'trace', '--no-svg', *own,"
        " 'train.py'])\n"
    )

    done = launched(tmp_path, wrapper)

    assert done.returncode == 0, done.stderr
    assert endings(tmp_path) == plain
    with load_run(tmp_path / "train.rank0.trace") as job:
        assert len(job.ranks[0].calls) == 5
        assert len(job.ranks[1].calls) == (2 if "--steps" in option else 3)


def test_an_interrupted_launcher_hands_the_signal_on() -> None:
    class Process:
        sent: list[int] = []  # noqa: RUF012

        def send_signal(self, number: int) -> None:
            self.sent.append(number)

    launch._hand_on(Process())(signal.SIGTERM, None)  # type: ignore[arg-type]

    assert Process.sent == [signal.SIGTERM]


# Ranks that are not there.


@pytest.mark.parametrize(
    ("reduction", "weight"),
    [("mean", "lr x 1/4096 = 2.441e-08"), ("sum", "lr x 1/1024 = 9.766e-08")],
)
def test_a_thousand_ranks_are_explained_from_one(
    tmp_path: Path, reduction: str, weight: str
) -> None:
    """4 images on each of 1,024 ranks: DDP divides by 1,024 what is a mean or a sum on each."""
    done = run(
        tmp_path, CLI, "trace", "--no-svg", "--world-size", "1024", "-o", "job.trace",
        SAMPLES / "yolo_ddp.py", "--reduction", reduction, "--steps", "1",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "1,024 ranks, 1/1024 each; simulated" in done.stderr
    assert f"{weight} per sample" in done.stderr
    with load(tmp_path / "job.trace") as trace:
        info = trace.info
        assert (info.simulated, info.rank, info.world, info.launcher) == (
            True, 0, 1024, "simulation",
        )  # fmt: skip
        assert info.siblings == ()
        (exchange,) = [e for e in trace.exchanges if e.wrapper is not None]
        pieces = trace.layout(exchange.layout).pieces
        rows = trace.measurements(exchange)
        entered = [rows[p.row].norm for p in pieces if p.moment == "entered"]  # type: ignore[index]
        left = [rows[p.row].norm for p in pieces if p.moment == "left"]  # type: ignore[index]
        assert left == pytest.approx([1024 * norm for norm in entered])


def test_the_sample_trains_alike_on_one_process_and_on_equal_simulated_ranks(
    tmp_path: Path,
) -> None:
    sample = SAMPLES / "yolo_ddp.py"

    alone = run(tmp_path, sample)
    simulated = run(tmp_path, CLI, "trace", "--no-svg", "--world-size", "64", sample)

    assert alone.returncode == simulated.returncode == 0, simulated.stderr
    assert simulated.stdout == alone.stdout


SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

mesh = init_device_mesh("cpu", (512,))
model = torch.nn.Sequential(torch.nn.Linear(8, 1024), torch.nn.Linear(1024, 2))
fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 8)).mean().backward()
optimizer.step()
names = [None] * dist.get_world_size()
dist.all_gather_object(names, "a rank")
assert names == ["a rank"] * 512, names[:3]
"""


def test_fsdp_runs_on_simulated_ranks(tmp_path: Path) -> None:
    script(tmp_path, SHARDED)

    done = run(tmp_path, CLI, "trace", "--no-svg", "--world-size", "512", "train.py")

    assert done.returncode == 0, done.stderr
    with load(tmp_path / "train.trace") as trace:
        assert trace.info.failure == ""
        held = {b.name: (b.shape, b.parts[0].elements) for b in trace.buffers.values()}
        assert held["0.weight"] == ((1024, 8), 16)
        assert sorted(held) == ["0.bias", "0.weight", "1.bias", "1.weight"]
        kinds = [e.kind for e in trace.exchanges if e.call is not None]
        assert "reduce_scatter" in kinds
