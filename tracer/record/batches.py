"""Which batch of which `DataLoader` the script is at."""

from __future__ import annotations

import functools
import threading
from typing import Any

from torch.utils.data.dataloader import _BaseDataLoaderIter

from tracer.record.journal import Interned
from tracer.record.patches import Patches

__all__ = ["Batches"]


class Batches:
    """Counts what loaders hand out. `last` is the loader that did so last, and its count."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._loaders = Interned()
        self._given: dict[int, int] = {}
        self._lock = threading.Lock()
        self.last: tuple[int, int] | None = None

    def start(self) -> None:
        following = _BaseDataLoaderIter.__next__

        @functools.wraps(following)
        def counting(loader: Any) -> Any:
            batch = following(loader)
            with self._lock:
                # By identity: an iterator is made anew for each epoch, and so gets a new number
                # or that of one long gone. Within a window that makes no difference.
                number = self._loaders(id(loader))
                self._given[number] = self._given.get(number, 0) + 1
                self.last = (number, self._given[number])
            return batch

        self._patches.replace(_BaseDataLoaderIter, "__next__", counting)

    def stop(self) -> None:
        self._patches.restore()
