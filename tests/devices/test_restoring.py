"""Before and after: nothing is loaded unasked, and torch is left as it was."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.cuda.nccl
import torch.nn.parallel
from torch import nn

from tracer.devices import VirtualGpus, virtual_gpus
from tracer.errors import WrongUse

OWNERS: list[Any] = [
    torch.Tensor, torch.UntypedStorage, torch._C, torch._C._nn, torch.version,
    torch.nn.parallel._functions.Broadcast, torch.nn.parallel._functions.Scatter,
    torch.nn.parameter.UninitializedTensorMixin, torch.backends.cuda, torch.backends.cudnn,
]  # fmt: skip


def everything() -> dict[tuple[str, str], Any]:
    """Every attribute of every loaded module of torch, and of the classes that are patched."""
    owners = {name: module for name, module in sys.modules.items() if name.startswith("torch")}
    owners |= {f"owner {index}": owner for index, owner in enumerate(OWNERS)}
    return {
        (name, attribute): value
        for name, owner in list(owners.items())
        if isinstance(owner, types.ModuleType | type) or name.startswith("owner")
        for attribute, value in list(vars(owner).items())
    }


def test_afterwards_every_attribute_of_torch_is_the_very_same_object() -> None:
    with virtual_gpus(2):
        nn.DataParallel(nn.Linear(2, 2).cuda())(torch.ones(4, 2).cuda()).sum().backward()
    before = everything()
    with contextlib.suppress(KeyboardInterrupt), virtual_gpus(2):
        nn.DataParallel(nn.Linear(2, 2).cuda())(torch.ones(4, 2).cuda()).sum().backward()
        changed = [key for key, value in everything().items() if before.get(key) is not value]
        raise KeyboardInterrupt
    after = everything()

    assert len(changed) > 100
    assert after.keys() == before.keys()
    assert [key for key in before if before[key] is not after[key]] == []


def test_afterwards_the_dispatcher_has_the_kernels_that_it_had() -> None:
    def kernels() -> list[str]:
        names = ("to.dtype_layout", "empty.memory_format", "mm", "linear", "_pad_circular")
        return [torch._C._dispatch_dump(f"aten::{name}") for name in names]

    before = kernels()
    with virtual_gpus(1):
        assert kernels() != before

    assert kernels() == before


def test_afterwards_there_is_no_gpu() -> None:
    with virtual_gpus(1):
        torch.ones(1, device="cuda")

    assert not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0
    for ask in (lambda: torch.ones(1).cuda(), lambda: torch.ones(1, device="cuda")):
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            ask()
    torch.ones(1, requires_grad=True).to(torch.float64).sum().backward()


def test_tensors_that_outlive_their_gpu_can_be_moved_to_the_cpu() -> None:
    with virtual_gpus(1):
        net = nn.Linear(2, 2).cuda()
        x = torch.ones(2, device="cuda", requires_grad=True)

    assert x.cpu().tolist() == x.tolist() == [1, 1]
    assert x.to("cpu").device.type == "cpu"
    assert net.cpu()(torch.ones(1, 2)).device.type == "cpu"
    with pytest.raises(RuntimeError, match="virtual GPUs were stopped"):
        x.cuda()


def test_there_is_one_machine_at_a_time_and_stopping_twice_is_once() -> None:
    gpus = VirtualGpus(1)
    gpus.start()
    try:
        with pytest.raises(WrongUse, match="there are virtual GPUs already"):
            VirtualGpus(2).start()
        assert torch.cuda.device_count() == 1
    finally:
        gpus.stop()
        gpus.stop()
    with virtual_gpus(3):
        assert torch.cuda.device_count() == 3


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_a_number_of_gpus_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(WrongUse, match="expected a number from 1 to"):
        VirtualGpus(count)


def test_real_gpus_are_not_hidden_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(WrongUse, match="this machine has 4 real GPUs"):
        VirtualGpus(2).start()
    monkeypatch.undo()
    with VirtualGpus(2, despite_real=True):
        assert torch.cuda.device_count() == 2


def test_nothing_of_this_is_loaded_unasked() -> None:
    program = (
        "import sys, tracer; tracer.Recorder; "
        "print([name for name in sys.modules if name.startswith('tracer.devices')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout == "[]\n", done.stderr
