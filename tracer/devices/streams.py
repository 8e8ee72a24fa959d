"""Streams and events that do nothing but keep their identity and the time."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.cuda.streams
from torch.nn.parallel import _functions

from tracer.devices.attributes import Attributes
from tracer.devices.machine import Machine, machine

__all__ = ["install"]

DEVICE_TYPE = 1
"""CUDA, in the numbering of c10::DeviceType."""


class Stream:
    """A stream: everything on it is done by the time that its caller goes on."""

    def __init__(
        self,
        device: Any = None,
        priority: int = 0,
        *,
        stream_id: int | None = None,
        device_index: int | None = None,
        device_type: int = DEVICE_TYPE,
        stream_ptr: int = 0,
    ) -> None:
        gpu = machine().gpu(device if device_index is None else device_index)
        self.device, self.device_index, self.device_type = gpu.device, gpu.index, device_type
        self.stream_id = machine().new_stream() if stream_id is None else stream_id
        self.priority = max(-1, min(0, priority))
        self._entered: list[tuple[int, int]] = []

    @property
    def cuda_stream(self) -> int:
        return self.stream_id

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return 0, -1

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        """Done already."""

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Done already."""

    def record_event(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        gpus = machine()
        self._entered.append((gpus.exchange(self.device_index), gpus.stream(self.device_index)))
        gpus.set_stream(self.stream_id, self.device_index)
        return self

    def __exit__(self, *exception: object) -> None:
        device, stream = self._entered.pop()
        machine().set_stream(stream, self.device_index)
        machine().exchange(device)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stream):
            return False
        return (self.stream_id, self.device_index) == (other.stream_id, other.device_index)

    def __hash__(self) -> int:
        return hash((self.stream_id, self.device_index))

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.stream_id:#x}>"


class Event:
    """An event: the time at which it was recorded, as nothing runs ahead of Python."""

    def __init__(
        self,
        device: Any = None,
        enable_timing: bool = False,
        blocking: bool = False,
        interprocess: bool = False,
        external: bool = False,
    ) -> None:
        self._is_timed = enable_timing or device is True  # cuda.Event takes it first
        self._recorded: float | None = None
        self.device = machine().gpu().device
        self.cuda_event = self.event_id = id(self)

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """Done already."""

    def synchronize(self) -> None:
        """Done already."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to a later one."""
        if not (self._is_timed and end_event._is_timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._recorded is None or end_event._recorded is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return (end_event._recorded - self._recorded) * 1e3


for class_ in (Stream, Event):
    class_.__module__ = "torch.cuda"


def install(attributes: Attributes, gpus: Machine) -> None:
    for owner in (torch, torch.cuda, torch.cuda.streams):
        attributes.put_all(owner, {"Stream": Stream, "Event": Event})

    def current(index: int) -> tuple[int, int, int]:
        index = gpus.gpu(index).index
        return gpus.stream(index), index, DEVICE_TYPE

    attributes.put_all(
        torch._C,
        {
            "_CudaStreamBase": Stream,
            "_CudaEventBase": Event,
            "_cuda_getCurrentStream": current,
            "_cuda_getCurrentRawStream": lambda index: current(index)[0],
            "_cuda_getDefaultStream": lambda index: (0, gpus.gpu(index).index, DEVICE_TYPE),
            "_cuda_setStream": _set_stream,
        },
    )
    # Streams that torch keeps for itself: those of these GPUs end with them.
    attributes.put(_functions, "_streams", None)


def _set_stream(stream_id: int, device_index: int, device_type: int) -> None:
    machine().exchange(device_index)
    machine().set_stream(stream_id, device_index)
