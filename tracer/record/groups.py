"""Process groups, as facts: whose ranks they are, and which dimension of a device mesh."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from tracer.events import Group
from tracer.record.journal import Journal

__all__ = ["Groups"]

MESH = "mesh_"
"""How a device mesh begins the description of a group; the name of its dimension follows."""


class Groups:
    """Numbers process groups."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def number(self, group: Any) -> int:
        """The id of a process group."""
        key = (str(group.group_name), self.ranks(group))
        return self._journal.intern(
            Group, key, lambda id: Group(id, *key, _backend(group), _dimension(group))
        )

    @staticmethod
    def ranks(group: Any) -> tuple[int, ...]:
        """The ranks of its members in the whole job, in the order of their ranks inside it."""
        try:
            return tuple(dist.get_process_group_ranks(group))
        except (KeyError, ValueError, RuntimeError):  # made without torch's own bookkeeping
            return tuple(range(group.size()))

    def of_mesh(self, mesh: Any) -> list[int] | None:
        """A group per dimension of a device mesh, None where this rank is not in it."""
        try:
            return [self.number(group) for group in mesh.get_all_groups()]
        except (RuntimeError, ValueError, AssertionError):
            return None


def _backend(group: Any) -> str:
    try:
        return str(dist.get_backend(group))
    except (KeyError, ValueError, RuntimeError):
        return str(group.name())


def _dimension(group: Any) -> str:
    text = str(getattr(group, "group_desc", "") or "")
    return text.removeprefix(MESH) if text.startswith(MESH) else ""
