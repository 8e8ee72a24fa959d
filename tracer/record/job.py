"""Which rank of which job this process is, as far as its environment and torch tell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from tracer.events import RunInfo
from tracer.runfiles import siblings_of

__all__ = ["JOB", "LAUNCHER", "Job"]

JOB = "GRADTRACE_JOB"
"""Set by the tracer for the processes it starts: a text that all ranks of a job share."""

LAUNCHER = "GRADTRACE_LAUNCHER"
"""Set likewise: who started them, where their environment does not tell."""


@dataclass(frozen=True)
class Job:
    """What `RunInfo` says of the job; a single process is a job of its own."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    launcher: str = ""
    backend: str = ""
    name: str = ""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Job:
        """The job that the environment describes, and torch, where a group is there already."""
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        job = cls(name=_name(environment))
        if rank is not None and world is not None:
            local = _number(environment, "LOCAL_RANK")
            launcher = environment.get(LAUNCHER) or (
                "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "environment"
            )
            job = replace(
                job, rank=rank, world=world, local_rank=rank if local is None else local,
                launcher=launcher if world > 1 or "TORCHELASTIC_RUN_ID" in environment else "",
            )  # fmt: skip
        return job.joined()

    def joined(self) -> Job:
        """The same, once the process has joined a process group."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        rank, world = dist.get_rank(), dist.get_world_size()
        launcher = self.launcher or os.environ.get(LAUNCHER) or ("environment" if world > 1 else "")
        known = self.world > 1
        return replace(
            self, rank=rank, world=world, local_rank=self.local_rank if known else rank,
            launcher=launcher, backend=str(dist.get_backend()),
        )  # fmt: skip

    def describe(self, info: RunInfo, output: Path) -> RunInfo:
        """What is known of the run, with what is known of the job."""
        return replace(
            info,
            rank=self.rank,
            world=self.world,
            local_rank=self.local_rank,
            launcher=self.launcher,
            backend=self.backend,
            job=self.name if self.world > 1 else "",
            siblings=siblings_of(output, self.rank, self.world),
        )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None


def _name(environment: Mapping[str, str]) -> str:
    """What all ranks of a job have in common, and no other job at this time."""
    given = environment.get(JOB)
    if given:
        return given
    parts = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    return " ".join(environment.get(part, "") for part in parts).strip()
