"""Attributes of torch, replaced or added for as long as there are virtual GPUs."""

from __future__ import annotations

from typing import Any

from tracer.record.patches import Patches

__all__ = ["Attributes"]


class Attributes(Patches):
    """`Patches` that also add what was not there, as a build without CUDA lacks some names."""

    def put(self, owner: Any, name: str, new: Any) -> None:
        """Put `new` at `owner.name`, there or not; `restore` gives back or removes it."""
        if hasattr(owner, name):
            self.replace(owner, name, new)
        else:
            self._replaced.append((owner, name, False, None))
            setattr(owner, name, new)

    def put_all(self, owner: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.put(owner, name, value)
