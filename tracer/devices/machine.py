"""The hardware that is pretended: GPUs with their memory counters, generators and streams."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["CPU", "TOTAL_MEMORY", "Allocation", "Gpu", "Machine", "is_running", "machine", "run"]

CPU = torch.device("cpu")

TOTAL_MEMORY = 16 << 30
"""What every virtual GPU says it has. Nothing keeps a script from using more."""


InvalidDevice: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)


class Gpu:
    """One virtual GPU. Its tensors and its machine hold on to it, and nothing else does."""

    __slots__ = ("allocated", "allocations", "device", "generator", "index", "lifetime", "peak")

    def __init__(self, index: int) -> None:
        self.index = index
        self.device = torch.device("cuda", index)
        self.allocated = self.peak = self.lifetime = self.allocations = 0
        self.generator: Any = None  # set by `generators`, which know what a Generator is

    def __repr__(self) -> str:
        return f"<virtual {self.device}>"


class Allocation:
    """The memory that a tensor and its views share; counted on its GPU for as long as it lives."""

    # Replicas count from several threads. No lock: CPython changes threads only at calls and at
    # jumps backward, of which there are none between reading a counter and writing it.
    __slots__ = ("_bytes", "_gpu")

    def __init__(self, gpu: Gpu, bytes: int) -> None:
        self._gpu, self._bytes = gpu, bytes
        gpu.allocated += bytes
        gpu.lifetime += bytes
        gpu.allocations += 1
        if gpu.allocated > gpu.peak:
            gpu.peak = gpu.allocated

    def __del__(self) -> None:
        self._gpu.allocated -= self._bytes
        self._gpu.allocations -= 1


class _OfThread(threading.local):
    """What CUDA keeps for each thread: the current device, and the current stream of each."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, int] = {}


class Machine:
    """Some virtual GPUs, and which of them each thread is using."""

    def __init__(self, count: int) -> None:
        self.gpus = [Gpu(index) for index in range(count)]
        self._thread = _OfThread()
        self._stream_ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self.gpus)

    @property
    def current(self) -> int:
        return self._thread.device

    @current.setter
    def current(self, index: int) -> None:
        self._thread.device = self._checked(index)

    def exchange(self, index: int) -> int:
        """Make a device current, and say which one was; a negative one changes nothing."""
        before = self._thread.device
        if index >= 0:
            self.current = index
        return before

    @contextmanager
    def using(self, index: int) -> Iterator[None]:
        before = self.exchange(index)
        try:
            yield
        finally:
            self.exchange(before)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.gpus):
            raise InvalidDevice(
                "CUDA error: invalid device ordinal\n"
                f"GPU {index} was asked for; there are {len(self.gpus)} virtual GPUs."
            )
        return index

    def gpu(self, device: Any = None) -> Gpu:
        """The GPU that a device, its number or its name stands for; the current one for none."""
        if device is None or device == -1:
            return self.gpus[self.current]
        if isinstance(device, int):
            return self.gpus[self._checked(device)]
        index = torch.device(device).index
        return self.gpus[self.current if index is None else self._checked(index)]

    def find(self, device: Any) -> Gpu | None:
        """The GPU that is meant; None where another kind of device is, or nothing in particular."""
        if device is None:
            return None
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, int) or device.type == "cuda":
            return self.gpu(device)
        return None

    def new_stream(self) -> int:
        return next(self._stream_ids)

    def stream(self, index: int) -> int:
        """The id of the current stream of a device in this thread; 0 is the default stream."""
        return self._thread.streams.get(index, 0)

    def set_stream(self, stream: int, index: int) -> None:
        self._thread.streams[index] = stream


class _Running:
    """The machine that is running now: at most one in a process."""

    machine: Machine | None = None


def machine() -> Machine:
    """The machine that is running."""
    if _Running.machine is None:
        raise RuntimeError("the virtual GPUs were stopped: move tensors to the CPU before they end")
    return _Running.machine


def is_running() -> bool:
    return _Running.machine is not None


def run(new: Machine | None) -> None:
    """Make a machine the running one; None: there is none any more."""
    _Running.machine = new
