"""Which batch of which `DataLoader` the script is at."""

from __future__ import annotations

import functools
import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.data.dataloader import _BaseDataLoaderIter

from tracer.record.patches import Patches

__all__ = ["Batches"]


class Batches:
    """Counts what loaders hand out. `last` is the loader that did so last, and its count."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._count = 0
        self._given: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self.last: tuple[int, int] | None = None

    def start(self) -> None:
        following = _BaseDataLoaderIter.__next__

        @functools.wraps(following)
        def counting(loader: Any) -> Any:
            batch = following(loader)
            with self._lock:
                # An iterator is made anew for each epoch, and so gets a new number.
                number, given = self._given.get(loader, (self._count, 0))
                self._count = max(self._count, number + 1)
                self._given[loader] = self.last = (number, given + 1)
            return batch

        self._patches.replace(_BaseDataLoaderIter, "__next__", counting)

    def stop(self) -> None:
        self._patches.restore()
