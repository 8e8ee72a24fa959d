"""What the instruments that rest between recorded steps have in common."""

from __future__ import annotations

from collections.abc import Callable

from tracer.record.journal import Journal
from tracer.record.modules import Modules
from tracer.record.patches import Patches
from tracer.record.sources import Sources

__all__ = ["Instrument"]


class Instrument:
    """Writes to the journal while `recording`; hands a fault of its own to `fail`."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        fail: Callable[[Exception], None],
    ) -> None:
        self._journal = journal
        self._sources = sources
        self._modules = modules
        self._fail = fail
        self._patches = Patches()
        self.recording = False

    def stop(self) -> None:
        """Put back what was replaced."""
        self._patches.restore()
