"""Which rank of which job this process is, as far as its environment and torch tell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from tracer.events import RunInfo
from tracer.record.children import CHILDREN, name_of_job
from tracer.runfiles import file_of_rank, siblings_of

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """What `RunInfo` says of the job; a single process is a job of its own."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    launcher: str = ""
    backend: str = ""
    name: str = ""
    is_simulated: bool = False

    @classmethod
    def simulated(cls, world: int) -> Job:
        """A job of equal ranks, all in this process."""
        return cls(world=world, launcher="simulation", backend="fake", is_simulated=True)

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Job:
        """The job that the environment describes, and torch, where a group is there already."""
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        job = cls(name=name_of_job(environment))
        if rank is not None and world is not None:
            local = _number(environment, "LOCAL_RANK")
            is_torchrun = "TORCHELASTIC_RUN_ID" in environment
            job = replace(
                job, rank=rank, world=world, local_rank=rank if local is None else local,
                launcher="torchrun" if is_torchrun else "environment" if world > 1 else "",
            )  # fmt: skip
        return job.joined()

    def joined(self) -> Job:
        """The same, once the process has joined a process group."""
        if self.is_simulated or not (dist.is_available() and dist.is_initialized()):
            return self
        rank, world = dist.get_rank(), dist.get_world_size()
        known = self.world > 1
        launcher = self.launcher or ("children" if CHILDREN in os.environ else "environment")
        return replace(
            self, rank=rank, world=world, local_rank=self.local_rank if known else rank,
            launcher=launcher, backend=str(dist.get_backend()),
        )  # fmt: skip

    def file(self, output: Path) -> Path:
        """Where this rank writes: beside the others, under the name of its rank."""
        if self.world < 2 or self.is_simulated or siblings_of(output, self.rank, self.world):
            return output
        return file_of_rank(output, self.rank)

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
            simulated=self.is_simulated,
            siblings=()
            if self.is_simulated
            else siblings_of(self.file(output), self.rank, self.world),
        )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else None
