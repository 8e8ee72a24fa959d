"""After the recorder has stopped, however it did, the process is as it was before it started."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
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


Weakly = list[weakref.ref[Any]]

ENDINGS: tuple[type[BaseException], ...] = (Break, KeyboardInterrupt, SystemExit)


def once(fails: str = "", error: type[BaseException] = Break) -> Weakly:
    """Two steps of training; what it made, held weakly. `fails`: where it raises in the first."""
    made: Weakly = []
    try:
        train(fails, error, made)
    except error:
        assert fails
    return made


def train(fails: str, error: type[BaseException], made: Weakly) -> None:
    def fail(*_: Any) -> None:
        raise error

    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = hooks_of(optimizer, net)
    made += held_weakly([net, optimizer, scaler, *net.parameters()])
    for _ in range(2):
        optimizer.zero_grad()
        out = net(torch.randn(6, 4))
        loss = F.cross_entropy(out, torch.tensor([0, 1, 2, 0, 1, 2]))
        made += held_weakly([out, loss, loss.grad_fn])
        if fails == "in a hook":
            out.register_hook(fail)
        scaler.scale(loss).backward(retain_graph=True)
        torch.autograd.grad(loss, out, create_graph=True)
        made += held_weakly([parameter.grad for parameter in net.parameters()])
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        if fails == "before the step":
            fail()
        if fails == "in the step":
            optimizer.register_step_pre_hook(fail)
        scaler.step(optimizer)
        scaler.update()
    assert hooks_of(optimizer, net) == before


def held_weakly(things: list[Any]) -> Weakly:
    references = []
    for thing in things:
        try:
            references.append(weakref.ref(thing))
        except TypeError:  # a node has no weak references: what it keeps alive has
            continue
    return references


Way = Callable[[tracer.Recorder], Weakly]


def well(recorder: tracer.Recorder) -> Weakly:
    return once()


def with_a_fault_of_ours(recorder: tracer.Recorder) -> Weakly:
    recorder._fail(KeyError("a bug of ours"))
    return once()


def with_a_full_disk(recorder: tracer.Recorder) -> Weakly:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    recorder._writer.commit = full  # type: ignore[method-assign]
    return once()


def stopped_twice(recorder: tracer.Recorder) -> Weakly:
    made = once()
    recorder.stop()
    recorder.stop()
    return made


def failing(where: str, error: type[BaseException]) -> Way:
    def way(recorder: tracer.Recorder) -> Weakly:
        return once(where, error)

    return way


WAYS: dict[str, Way] = {
    way.__name__: way for way in (well, with_a_fault_of_ours, with_a_full_disk, stopped_twice)
}
TO_THE_END = frozenset(WAYS)
WAYS |= {
    f"{error.__name__} {where}": failing(where, error)
    for error in ENDINGS
    for where in ("in a hook", "before the step", "in the step")
}

OPTIONS: tuple[dict[str, Any], ...] = (
    {"detail": "buffers"}, {"detail": "structure"}, {"terms": True}, {"steps": (2, 2)},
    {"steps": (9, None)},
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """All that a recorder might have left changed."""

    torch: dict[tuple[str, str], Any]
    around: dict[str, Any]

    def assert_same_as(self, before: State) -> None:
        assert self.torch.keys() == before.torch.keys()
        assert [key for key in before.torch if before.torch[key] is not self.torch[key]] == []
        assert {k: v for k, v in self.around.items() if v != before.around[k]} == {}


def state() -> State:
    around = surroundings()  # first: torch changes a class of optimizers when one is made
    return State(attributes(), around)


@pytest.fixture
def before(tmp_path: Path) -> State:
    once()  # what torch itself makes on first use is there
    with tracer.Recorder(tmp_path / "first.trace"):
        once()
    gc.collect()
    return state()


def drawn_by_one_alone() -> torch.Tensor:
    torch.manual_seed(0)
    once()
    return torch.get_rng_state()


def assert_all_dead(made: Weakly) -> None:
    gc.collect()
    assert len(made) > 8
    assert [reference() for reference in made if reference() is not None] == []


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_behind(way: str, before: State, tmp_path: Path) -> None:
    with tracer.Recorder(tmp_path / "run.trace") as recorder:
        now = attributes()
        changed = [key for key, value in now.items() if before.torch.get(key) is not value]
        torch.manual_seed(0)
        made = WAYS[way](recorder)
        drawn = torch.get_rng_state()

    assert len(changed) > 8
    assert way not in TO_THE_END or torch.equal(drawn, drawn_by_one_alone())
    state().assert_same_as(before)
    assert_all_dead(made)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_option_leaves_anything_behind(
    options: dict[str, Any], before: State, tmp_path: Path
) -> None:
    with tracer.Recorder(tmp_path / "run.trace", **options):
        torch.manual_seed(0)
        made = once()
        drawn = torch.get_rng_state()

    assert torch.equal(drawn, drawn_by_one_alone())
    state().assert_same_as(before)
    assert_all_dead(made)


@pytest.mark.parametrize("error", ENDINGS)
@pytest.mark.parametrize("where", ["in a hook", "in the step"])
def test_a_block_that_an_exception_ends_leaves_nothing_behind(
    error: type[BaseException], where: str, before: State, tmp_path: Path
) -> None:
    made: Weakly = []
    try:
        with tracer.Recorder(tmp_path / "run.trace"):
            train(where, error, made)
    except error:
        ended = True

    assert ended
    state().assert_same_as(before)
    assert_all_dead(made)
    with tracer.load(tmp_path / "run.trace") as trace:
        assert trace.info.status == "crashed"


SCRIPT_ENDINGS = {
    "well": "once()",
    "with an exception in a hook": "train('in a hook', Break, [])",
    "with sys.exit in a hook": "train('in a hook', SystemExit, [])",
    "with an interrupt": "once(); os.kill(os.getpid(), signal.SIGINT)",
    "with an interrupt in a hook": "train('in a hook', KeyboardInterrupt, [])",
    "with no training": "pass",
}

HARNESS = """
import atexit, gc, json, sys
from tests.trust.test_nothing_left import *
import tracer.cli, tracer.commands.trace

def tell():
    # Registered before the recorder is: run after it has ended.
    after = attributes()
    changed = [key for key in before if before[key] is not after.get(key)]
    sys.last_type = sys.last_value = sys.last_traceback = None  # Python's own, of the script
    gc.collect()
    tensors = sum(type(thing) is nn.Parameter for thing in gc.get_objects())
    now = surroundings()
    around = [key for key in was if key in COMPARED and was[key] != now[key]]
    with open(sys.argv[0] + ".left", "w") as file:
        json.dump({"changed": changed, "new": sorted(map(str, after.keys() - before.keys())),
                   "around": around, "parameters": tensors, "during": during}, file)

COMPARED = ("meta_path", "threads", "recursion", "hooks", "modes", "gc", "trace", "profile")
once()
with tracer.Recorder(sys.argv[1] + ".first"):
    once()
gc.collect()
during = []
atexit.register(tell)
script, trace = sys.argv[2], sys.argv[1]
was = surroundings()
before = attributes()
def look():
    now = attributes()
    during.append(sum(before.get(key) is not value for key, value in now.items()))
sys.modules["looking"] = type(sys)("looking")
sys.modules["looking"].look = look
sys.argv[0] = script
sys.exit(tracer.cli.main(["trace", "--no-svg", "-o", trace, script]))
"""


@pytest.mark.parametrize("ending", SCRIPT_ENDINGS)
def test_a_script_however_it_ends_leaves_nothing_behind(ending: str, tmp_path: Path) -> None:
    script, harness, trace = tmp_path / "s.py", tmp_path / "harness.py", tmp_path / "s.trace"
    script.write_text(
        "import os, signal, sys, torch\nfrom tests.trust.test_nothing_left import *\n"
        f"from looking import look\nlook()\n{SCRIPT_ENDINGS[ending]}\n"
    )
    harness.write_text(HARNESS)

    done = subprocess.run(
        [sys.executable, str(harness), str(trace), str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    left = json.loads(Path(f"{script}.left").read_text())
    assert left.pop("during")[0] > 8, done.stderr
    assert left == {"changed": [], "new": [], "around": [], "parameters": 0}, done.stderr
    assert ("Traceback" in done.stderr) == ("exception" in ending or "interrupt" in ending)


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
