"""Virtual GPUs as a whole: started, used by whatever runs, stopped, and no trace of them left."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

from tracer.devices import (
    autocast,
    compiling,
    factories,
    generators,
    legacy,
    machine,
    moves,
    parallel,
    repairs,
    runtime,
    storages,
    streams,
)
from tracer.devices.attributes import Attributes
from tracer.errors import WrongUse

__all__ = ["VirtualGpus", "virtual_gpus"]

MOST = 64


class VirtualGpus:
    """Makes torch believe in `count` CUDA devices between `start` and `stop`.

    Args:
        count: how many, from 1 to 64.
        despite_real: allow it on a machine that has real ones; they are out of reach meanwhile.

    Raises:
        WrongUse: on `start`, where there are real GPUs, or virtual ones already.
    """

    def __init__(self, count: int, *, despite_real: bool = False) -> None:
        if not 1 <= count <= MOST:
            raise WrongUse("wrong-use", f"gpus {count}: expected a number from 1 to {MOST}")
        self.count = count
        self._despite_real = despite_real
        self._attributes = Attributes()
        self._kernels = factories.Kernels()
        self._started = False

    def start(self) -> None:
        """Put the devices in place."""
        if machine.is_running():
            raise WrongUse("wrong-use", "there are virtual GPUs already: stop them before others")
        if torch.cuda.is_available() and not self._despite_real:
            raise WrongUse(
                "wrong-use",
                f"this machine has {torch.cuda.device_count()} real GPUs, and the script will use "
                "them: leave out the virtual ones, or hide the real ones (CUDA_VISIBLE_DEVICES=)",
            )
        # It keeps tables of torch's own functions, made when it is imported, which every optimizer
        # does: that must not find ours.
        importlib.import_module("torch._dynamo")
        gpus = machine.Machine(self.count)
        machine.run(gpus)
        self._started = True
        try:
            self._install(gpus)
        except BaseException:
            self.stop()
            raise

    def _install(self, gpus: machine.Machine) -> None:
        runtime.install(self._attributes, gpus)
        streams.install(self._attributes, gpus)
        generators.install(self._attributes, gpus)
        storages.install(self._attributes)
        moves.install(self._attributes)
        factories.install(self._attributes, self._kernels)
        legacy.install(self._attributes)
        autocast.install(self._attributes, self._kernels)
        compiling.install(self._attributes)
        repairs.install(self._kernels)
        parallel.install(self._attributes)
        runtime.run_queued_calls()

    def stop(self) -> None:
        """Leave torch as it was. A second call does nothing.

        Tensors that are still on a virtual GPU can be moved to the CPU, and nothing else.
        """
        if not self._started:
            return
        self._kernels.remove()
        self._attributes.restore()
        machine.run(None)
        self._started = False

    def __enter__(self) -> VirtualGpus:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@contextmanager
def virtual_gpus(count: int, *, despite_real: bool = False) -> Iterator[None]:
    """Run a block of code on a machine with `count` CUDA devices that are not there.

        with tracer.virtual_gpus(2):
            model = nn.DataParallel(model.cuda())

    Raises:
        WrongUse: there are real GPUs (and not `despite_real`), or virtual ones already.
    """
    with VirtualGpus(count, despite_real=despite_real):
        yield
