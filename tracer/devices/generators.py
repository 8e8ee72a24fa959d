"""Random numbers: one generator per virtual GPU, of its own seed and state.

They are the CPU's numbers, not CUDA's: the same seed gives other values than on a real GPU, and
the same ones in every run, however the threads of `DataParallel` are scheduled.
"""

from __future__ import annotations

from typing import Any

import torch

from tracer.devices.attributes import Attributes
from tracer.devices.machine import CPU, Gpu, Machine, machine

__all__ = ["install", "refuse_other"]

_CpuGenerator: Any = torch._C.Generator


class _AnyGenerator(type(_CpuGenerator)):  # type: ignore[misc]
    """Generators of the CPU are of the C++ class; `isinstance` finds both."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _CpuGenerator)


class Generator(_CpuGenerator, metaclass=_AnyGenerator):  # type: ignore[misc]
    """`torch.Generator`, for every device: a virtual one's is the CPU's under another name."""

    _gpu: Gpu

    def __new__(cls, device: Any = "cpu") -> Any:
        gpu = machine().find(device)
        if gpu is None:
            return _CpuGenerator(device)
        return cls.of(gpu)

    @classmethod
    def of(cls, gpu: Gpu) -> Generator:
        generator: Generator = _CpuGenerator.__new__(cls, CPU)
        generator._gpu = gpu
        return generator

    @property
    def device(self) -> torch.device:
        return self._gpu.device

    def clone_state(self) -> Generator:
        clone = Generator.of(self._gpu)
        clone.set_state(self.get_state())
        return clone

    def __reduce__(self) -> Any:
        return _rebuilt, (self.device, self.initial_seed(), self.get_state())


Generator.__module__ = "torch"


def _rebuilt(device: torch.device, seed: int, state: torch.Tensor) -> Any:
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    return generator.set_state(state)


def refuse_other(generator: Any, is_cuda: bool) -> None:
    """A generator draws for tensors on devices of its own kind only.

    Asked at Python's level: to the dispatcher, all our generators are the CPU's.
    """
    wanted, found = ("cuda" if is_cuda else "cpu"), generator.device.type
    if wanted != found:
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")


def install(attributes: Attributes, gpus: Machine) -> None:
    for gpu in gpus.gpus:
        gpu.generator = Generator.of(gpu)
    attributes.put(torch, "Generator", Generator)
    generators = tuple(gpu.generator for gpu in gpus.gpus)
    attributes.put(torch.cuda, "default_generators", generators)
