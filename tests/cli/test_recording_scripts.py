"""Scripts that train are the same traced, and leave a readable trace however they end."""

from __future__ import annotations

import signal

import pytest

from tests.cli.conftest import TRAINING, Folder, assert_same


def test_a_script_that_raises_in_its_third_iteration_leaves_three_calls(folder: Folder) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
for iteration in range(1, 6):
    step()
    print(iteration, model.weight.tolist())
    if iteration == 3:
        raise RuntimeError("enough")
""",
    )

    plain, traced = folder.python("script.py"), folder.traced("script.py")

    assert_same(plain, traced)
    assert "3 backward calls in 3 steps" in traced.summary
    with folder.trace("script.trace") as trace:
        assert (len(trace.calls), len(trace.steps)) == (3, 3)
        assert (trace.info.status, trace.info.exit_code) == ("crashed", 1)


def test_an_exit_code_is_kept_in_the_trace(folder: Folder) -> None:
    folder.write("script.py", TRAINING + "step()\nraise SystemExit(7)\n")

    traced = folder.traced("script.py")

    assert traced.code == 7
    assert "exit code 7" in traced.summary
    with folder.trace("script.trace") as trace:
        assert (trace.info.status, trace.info.exit_code) == ("finished", 7)


def test_a_script_killed_in_its_fiftieth_step_leaves_a_readable_trace(folder: Folder) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
import os, signal

for iteration in range(1, 100):
    if iteration == 50:
        optimizer.register_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    step()
""",
    )

    assert folder.traced("script.py").code == -signal.SIGKILL
    with folder.trace("script.trace") as trace:
        assert len(trace.calls) >= 49
        assert len(trace.steps) == 49
        assert trace.info.status == "running"
        assert all(len(trace.measurements(call)) > 0 for call in trace.calls)
    assert folder.cli("info", "script.trace").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_is_stopped_leaves_a_readable_trace(
    folder: Folder, number: signal.Signals
) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
import pathlib, time

step()
pathlib.Path("ready").touch()
time.sleep(60)
""",
    )

    ended = folder.interrupt_when_ready(folder.start_traced("script.py"), number)

    assert ended.code == -number
    with folder.trace("script.trace") as trace:
        assert len(trace.steps) == 1
        assert trace.info.status == ("crashed" if number == signal.SIGINT else "running")


def test_what_a_script_sets_before_it_imports_torch_counts(folder: Folder) -> None:
    folder.write(
        "script.py",
        """
        import importlib.util, os

        assert importlib.util.find_spec("torch") is not None
        os.environ["OMP_NUM_THREADS"] = "2"
        import torch.nn as nn, torch

        print(torch.get_num_threads(), type(torch.__spec__.loader), torch.__loader__)
        nn.Linear(1, 1)(torch.ones(1)).backward()
        """,
    )

    plain, traced = folder.python("script.py"), folder.traced("script.py")

    assert plain.out.startswith("2 ")
    assert_same(plain, traced)
    assert "1 backward call in 0 steps" in traced.summary


def test_a_failed_import_of_torch_may_be_tried_again(folder: Folder) -> None:
    folder.write("empty/torch.py", "raise ImportError('not this one')")
    folder.write(
        "script.py",
        """
        import sys

        sys.path.insert(0, "empty")
        try:
            import torch
        except ImportError as error:
            print(error)
        del sys.path[0]
        import torch

        torch.ones(1, requires_grad=True).backward()
        """,
    )

    traced = folder.traced("script.py")

    assert_same(folder.python("script.py"), traced)
    assert "1 backward call" in traced.summary


RAISING_HOOK = """
import torch

def raising(gradient):
    raise ValueError("in the hook")

def run():
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(raising)
    y.backward()
"""


def test_an_exception_that_passes_the_engine_shows_no_frame_of_ours(folder: Folder) -> None:
    folder.write("script.py", RAISING_HOOK + "run()\n")

    assert_same(folder.python("script.py"), folder.traced("script.py"))


def test_an_exception_that_passes_the_engine_in_a_thread_shows_none_either(folder: Folder) -> None:
    folder.write(
        "script.py",
        RAISING_HOOK
        + """
import threading

thread = threading.Thread(target=run, name="worker")
thread.start()
thread.join()
""",
    )

    assert_same(folder.python("script.py"), folder.traced("script.py"))


def test_work_after_the_last_line_is_recorded(folder: Folder) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
import atexit, threading, time

def later():
    time.sleep(0.2)
    step()

atexit.register(step)
threading.Thread(target=later).start()
""",
    )

    assert "2 backward calls in 2 steps" in folder.traced("script.py").summary


def test_parameters_and_random_numbers_are_the_same_bit_for_bit(folder: Folder) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
import hashlib, random

random.seed(0)
for _ in range(5):
    step()
state = torch.get_rng_state().numpy().tobytes()
print(hashlib.sha256(state).hexdigest(), torch.rand(1).item().hex(), random.getstate()[1][:3])
print([value.hex() for p in model.parameters() for value in p.flatten().tolist()])
""",
    )
    plain = folder.python("script.py")

    assert_same(plain, folder.traced("script.py"))
    assert_same(plain, folder.traced("--every", "2", "script.py"))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (("--steps", "6:"), [6, 7]),
        (("--every", "3"), [1, 4, 7]),
        (("--every", "2", "--steps", "2:5"), [2, 4]),
    ],
)
def test_chosen_steps_only_are_recorded(
    folder: Folder, options: tuple[str, ...], steps: list[int]
) -> None:
    folder.write("script.py", TRAINING + "for _ in range(7): step()\n")

    folder.traced(*options, "script.py")

    with folder.trace("script.trace") as trace:
        assert [step.step for step in trace.steps] == steps
        assert [call.step for call in trace.calls] == steps


LOADING = """
import sys, torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((3,), float(index))

if __name__ == "__main__":
    model = torch.nn.Linear(3, 1)
    torch.nn.init.ones_(model.weight)
    loader = DataLoader(Numbers(), batch_size=2, num_workers=1, multiprocessing_context=sys.argv[1])
    for batch in loader:
        model(batch).mean().backward()
        print(model.weight.grad.tolist())
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_start_as_they_would_alone(folder: Folder, method: str) -> None:
    folder.write("script.py", LOADING)

    traced = folder.traced("script.py", method)

    assert_same(folder.python("script.py", method), traced)
    assert traced.summary.count("gradtrace: script.py") == 1
    assert "2 backward calls" in traced.summary


def test_a_forked_child_that_trains_leaves_the_trace_alone(folder: Folder) -> None:
    folder.write(
        "script.py",
        TRAINING
        + """
import os, sys

step()
child = os.fork()
step()
if child:
    print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    step()
else:
    sys.exit(5)
""",
    )

    traced = folder.traced("script.py")

    assert_same(folder.python("script.py"), traced)
    assert traced.summary.count("gradtrace: script.py") == 1
    assert "3 backward calls in 3 steps" in traced.summary


def test_a_tracer_that_cannot_start_lets_the_script_go_on(folder: Folder) -> None:
    folder.write(
        "script.py",
        """
        import os, shutil

        shutil.rmtree("traces")
        import torch

        torch.ones(1, requires_grad=True).backward()
        raise SystemExit(3)
        """,
    )
    (folder.path / "traces").mkdir()

    traced = folder.traced("-o", "traces/run", "script.py")

    assert traced.code == 3
    assert traced.err.count("\n") == 1
    assert "traces/run.trace: cannot write a trace there" in traced.err


def test_anomaly_mode_of_the_script_shows_its_own_lines_only(folder: Folder) -> None:
    folder.write(
        "script.py",
        """
import torch

torch.autograd.set_detect_anomaly(True)


def loss_of(w):
    return (w - w.detach()).sqrt().sum()


w = torch.ones(3, requires_grad=True)
loss = loss_of(w) * 0
try:
    loss.backward()
except RuntimeError as error:
    print(error)
""",
    )
    plain = folder.python("script.py")

    assert "Traceback of forward call" in plain.err
    assert_same(plain, folder.traced("script.py"))
    assert_same(plain, folder.traced("--steps", "2:", "script.py"))
