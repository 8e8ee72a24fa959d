"""After the recorder has stopped, however it did, the process is as it was before it started."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer

pytestmark = pytest.mark.filterwarnings("ignore:.*reduce_op:FutureWarning")


def attributes() -> dict[tuple[str, str], Any]:
    """Every attribute of every module of torch and of every class in it, as it lies there."""
    found: dict[tuple[str, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "torch" or not isinstance(module, types.ModuleType):
            continue
        for attribute, value in list(vars(module).items()):
            found[name, attribute] = value
            if isinstance(value, type) and value.__module__.startswith("torch"):
                inside = f"{value.__module__}.{value.__qualname__}"
                found |= {(inside, key): held for key, held in list(vars(value).items())}
    del found["torch.utils.hooks.RemovableHandle", "next_id"]  # counts the hooks that ever were
    return found


def surroundings() -> dict[str, Any]:
    """What a process has outside torch that a tool might leave changed."""
    return {
        "meta_path": list(sys.meta_path), "path_hooks": list(sys.path_hooks),
        "excepthook": sys.excepthook, "threading.excepthook": threading.excepthook,
        "unraisablehook": sys.unraisablehook, "displayhook": sys.displayhook,
        "trace": sys.gettrace(), "profile": sys.getprofile(), "path": list(sys.path),
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "gc": (gc.isenabled(), gc.get_threshold(), list(gc.callbacks), gc.get_debug()),
        "threads": {thread.ident for thread in threading.enumerate()},
        "warnings": list(warnings.filters), "showwarning": warnings.showwarning,
        "recursion": sys.getrecursionlimit(), "atexit": atexit._ncallbacks(),
        "hooks": hooks_of(torch.optim.SGD(nn.Linear(1, 1).parameters()), nn.Linear(1, 1)),
        "modes": (torch.is_grad_enabled(), torch.is_anomaly_enabled(),
                  torch.is_anomaly_check_nan_enabled(), torch.get_num_threads()),
        "random": bytes(torch.get_rng_state().tolist()),
    }  # fmt: skip


def hooks_of(optimizer: torch.optim.Optimizer, net: nn.Module) -> list[int]:
    """How many hooks hang on modules, parameters and optimizers, and on all of either kind."""
    tables: list[Any] = [
        vars(torch.nn.modules.module)[name]
        for name in vars(torch.nn.modules.module)
        if name.startswith("_global_") and name.endswith("_hooks")
    ]
    module = sys.modules[torch.optim.Optimizer.__module__]
    tables += [v for k, v in vars(module).items() if k.startswith("_global_optimizer")]
    for each in net.modules():
        tables += [held for name, held in vars(each).items() if name.endswith("_hooks")]
    tables += [held for name, held in vars(optimizer).items() if name.endswith("_hooks")]
    for leaf in net.parameters():
        tables += [leaf._backward_hooks, leaf._post_accumulate_grad_hooks]
    return [len(table or ()) for table in tables]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Break(Exception):
    pass


def once(fails: str = "") -> list[Any]:
    """A step of training; what it made, to be held weakly."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = hooks_of(optimizer, net)
    seen: list[Any] = [net, optimizer, scaler]
    for _ in range(2):
        optimizer.zero_grad()
        out = net(torch.randn(6, 4))
        loss = F.cross_entropy(out, torch.tensor([0, 1, 2, 0, 1, 2]))
        if fails == "hook":
            out.register_hook(_raise)
        scaler.scale(loss).backward(retain_graph=True)
        torch.autograd.grad(loss, out, create_graph=True)
        seen += [out, loss, loss.grad_fn, *(p.grad for p in net.parameters()), *net.parameters()]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        if fails == "step":
            raise Break
        scaler.step(optimizer)
        scaler.update()
    assert hooks_of(optimizer, net) == before
    return seen


def _raise(gradient: torch.Tensor) -> None:
    raise Break


def held_weakly(things: list[Any]) -> list[weakref.ref[Any]]:
    references = []
    for thing in things:
        try:
            references.append(weakref.ref(thing))
        except TypeError:  # a node has no weak references: what it keeps alive has
            continue
    return references


def well(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    return held_weakly(once())


def with_an_exception_in_a_hook(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    with pytest.raises(Break):
        once("hook")
    return []


def with_an_exception_before_the_step(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    with pytest.raises(Break):
        once("step")
    return []


def with_a_fault_of_ours(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    recorder._fail(KeyError("a bug of ours"))
    return held_weakly(once())


def with_a_full_disk(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    recorder._writer.commit = full  # type: ignore[method-assign]
    return held_weakly(once())


def stopped_twice(recorder: tracer.Recorder) -> list[weakref.ref[Any]]:
    found = held_weakly(once())
    recorder.stop()
    recorder.stop()
    return found


WAYS = [
    well, with_an_exception_in_a_hook, with_an_exception_before_the_step, with_a_fault_of_ours,
    with_a_full_disk, stopped_twice,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_is_left_behind(
    way: Callable[[tracer.Recorder], list[weakref.ref[Any]]], tmp_path: Path
) -> None:
    once()  # what torch itself makes on first use is there
    with tracer.Recorder(tmp_path / "first.trace"):
        once()
    torch.manual_seed(0)
    once()
    plain = surroundings()
    before = attributes()
    torch.manual_seed(0)

    with tracer.Recorder(tmp_path / "run.trace") as recorder:
        changed = [key for key, value in attributes().items() if before.get(key) is not value]
        references = way(recorder)
    after = attributes()

    assert len(changed) > 8
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] is not after[key]] == []
    now = surroundings()
    if way not in (with_an_exception_in_a_hook, with_an_exception_before_the_step):
        assert now.pop("random") == plain.pop("random")
    assert {k: v for k, v in now.items() if v != plain[k] and k != "random"} == {}
    gc.collect()
    assert [reference() for reference in references if reference() is not None] == []


def test_a_node_keeps_no_hook_of_ours(tmp_path: Path) -> None:
    w = torch.ones(3, requires_grad=True)
    loss = (w * 2).exp().sum()
    with tracer.Recorder(tmp_path / "run.trace"):
        loss.backward(retain_graph=True)

    node = loss.grad_fn
    while node is not None and node.next_functions:
        handle = node.register_hook(lambda *_: None)
        assert len(handle.hooks_dict_ref()) == 1
        handle.remove()
        node = node.next_functions[0][0]


def test_modules_loaded_by_recording_are_ours_and_torchs(tmp_path: Path) -> None:
    once()
    before = set(sys.modules)
    with tracer.Recorder(tmp_path / "run.trace"):
        once()

    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert new <= {"tracer", "torch", "sqlite3", "_sqlite3"}
