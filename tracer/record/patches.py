"""Replace attributes of somebody else; put the very same objects back, in reverse order."""

from __future__ import annotations

from typing import Any

__all__ = ["Patches"]


class Patches:
    """What was replaced, to be given back. Nothing else in the recorder sets names of torch."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, bool, Any]] = []

    def replace(self, owner: Any, name: str, new: Any) -> Any:
        """Put `new` at `owner.name`; return what was there before (inherited, perhaps)."""
        is_own = name in vars(owner)
        self._replaced.append((owner, name, is_own, vars(owner).get(name)))
        before = getattr(owner, name)
        setattr(owner, name, new)
        return before

    def restore(self) -> None:
        """Give everything back, last first. A second call does nothing."""
        while self._replaced:
            owner, name, is_own, before = self._replaced.pop()
            if is_own:
                # From vars(), so that a staticmethod or descriptor returns as the same object.
                setattr(owner, name, before)
            else:
                delattr(owner, name)
