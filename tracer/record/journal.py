"""Order and identity: numbers events, interns what repeats, and hands facts to the trace file."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from array import array
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from tracer.events import (
    Buffer,
    Event,
    Form,
    Group,
    Layout,
    Module,
    Reset,
    RunInfo,
    Source,
    Structure,
    Wrapper,
)
from tracer.tracefile import TraceWriter

__all__ = ["Interned", "Journal", "digest", "shape_of"]

Fact = TypeVar("Fact", Source, Module, Buffer, Form, Structure, Layout, Group, Wrapper)


def digest(*numbers: array[int] | bytearray) -> bytes:
    """A signature of some sequences of integers."""
    signature = hashlib.blake2b(digest_size=16)
    for sequence in numbers:
        signature.update(sequence)
    return signature.digest()


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape as plain integers; -1 for the ragged dimension of a nested tensor."""
    return tuple(n if isinstance(n, int) else -1 for n in tensor.shape)


class Interned:
    """Numbers for things that repeat, from 0, within this process only."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, thing: Hashable) -> int:
        number = self._numbers.get(thing)
        if number is None:
            number = self._numbers[thing] = len(self._numbers)
        return number


class Journal:
    """The one way from the instruments into the trace file; safe to use from several threads.

    `step` is the number of the step in whose window we are, from 1; the recorder moves it on.
    """

    def __init__(self, writer: TraceWriter, detail: str = "edges") -> None:
        self._writer = writer
        self.detail = detail
        self._lock = threading.RLock()
        self._forms: dict[Hashable, int] = {}
        self._known: dict[type, dict[Hashable, int]] = {Form: self._forms}
        self.ordinary_forms: dict[tuple[torch.Size, torch.dtype], int] = {}
        """Ids of forms on the CPU, by shape and dtype, as far as they were asked for."""
        self.recent: dict[Hashable, int] = {}
        """Ids of the layouts of the last events without a graph, by what they hold."""
        self._orders = itertools.count(1)
        self._began = time.perf_counter()
        self.step = 1
        self.events = 0
        """How many were written."""

    def order(self) -> int:
        """The next number in the order of events."""
        return next(self._orders)

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    def intern(self, kind: type[Fact], key: Hashable, make: Callable[[int], Fact]) -> int:
        """The id of the fact known by `key`; made and written when it is new."""
        with self._lock:
            known = self._known.setdefault(kind, {})
            number = known.get(key)
            if number is None:
                number = known[key] = len(known)
                self._writer.add(make(number))
            return number

    def form(self, tensor: torch.Tensor) -> int:
        """The id of the tensor's shape, dtype and device."""
        key = (tensor.shape, tensor.dtype, tensor.device)
        number = self._forms.get(key)
        if number is not None:
            return number
        number = self.intern(
            Form,
            key,
            lambda id: Form(id, shape_of(tensor), str(key[1]).removeprefix("torch."), str(key[2])),
        )
        if key[2].type == "cpu":
            self.ordinary_forms[key[:2]] = number
        return number

    def layout(self, key: bytes, make: Callable[[], Layout]) -> int:
        """The id of the layout with this signature."""
        return self.intern(Layout, key, lambda id: replace(make(), id=id))

    def add(self, event: Event) -> None:
        """Write an event; a killed process keeps all that was added before.

        All but a `zero_grad` that nothing followed: a commit costs more than all else of it.
        """
        with self._lock:
            self.events += 1
            self._writer.add(event, type(event) is not Reset)

    def describe(self, info: RunInfo) -> None:
        """Write anew what is known of the process."""
        with self._lock:
            self._writer.describe(info)
            self._writer.commit()

    def close(self, **changes: Any) -> None:
        with self._lock:
            self._writer.close(**changes)
