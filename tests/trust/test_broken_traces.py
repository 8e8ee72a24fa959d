"""A damaged trace, or one with hostile names in it: a clear error or a sound answer, no more."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

import tracer
from tests.record.scenarios import SCENARIOS
from tests.trust.damage import BROKEN, HOSTILE, copy_of, record, rewrite_texts
from tests.trust.reading import Answer, ask, questions, wrong_with
from tracer.integrity import damage_among, damage_of

FEW, MANY = 2, 300


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "run.trace"
    record(path)
    return path


def broken(sound: Path, folder: Path, kind: str, seed: object) -> Path:
    path = copy_of(sound, folder)
    BROKEN[kind](path, random.Random(f"{kind} {seed}"))
    return path


def judge(path: Path, other: Path, folder: Path, *, draws: bool = True) -> list[Answer]:
    """Ask everything; assert that every answer is a sound one."""
    answers = []
    for words in questions([path, other], folder, "first.weight"):
        if draws or not words[-1].endswith(".svg"):
            answers.append(ask(words))
            assert wrong_with(answers[-1]) == "", " ".join(words)
    return answers


def test_the_sound_trace_is_sound(sound: Path, tmp_path: Path) -> None:
    assert damage_of(sound) == ""
    assert {answer.code for answer in judge(sound, sound, tmp_path)} <= {0, 1}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_was_recorded_is_sound(name: str, tmp_path: Path) -> None:
    with tracer.Recorder(tmp_path / "run.trace"):
        SCENARIOS[name]()

    assert damage_of(tmp_path / "run.trace") == ""


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_trace_gets_a_clear_error_or_an_answer(
    kind: str, sound: Path, tmp_path: Path
) -> None:
    for seed in range(FEW):
        judge(broken(sound, tmp_path, kind, seed), sound, tmp_path, draws=False)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", BROKEN)
def test_many_broken_traces_get_a_clear_error_or_an_answer(
    kind: str, sound: Path, tmp_path: Path
) -> None:
    for seed in range(MANY):
        judge(broken(sound, tmp_path, kind, seed), sound, tmp_path, draws=not seed % 20)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM nodes WHERE node = 1", "nodes of structure . are missing"),
        ("UPDATE contributions SET form = 99", "contributions has a form that is not in forms"),
        ("UPDATE sources SET caller = id", "sources has a caller after itself"),
        ("UPDATE forms SET shape = '[null]'", "forms has a shape that is not as it was written"),
        ("UPDATE calls SET measurements = x'00'", "calls has|measurements of event"),
        ("UPDATE edges SET sender = 'x'", "edges has a sender that is no integer"),
        ("DROP TABLE readings", "its table readings is not as it was written"),
        ("DELETE FROM run WHERE field = 'world'", "the world of its run"),
        ("UPDATE nodes SET name = 'AddBackward0'", "not those that were written"),
        ("UPDATE calls SET measurements = zeroblob(length(measurements))", "not those that were"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    change: str, found: str, sound: Path, tmp_path: Path
) -> None:
    path = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(change)
        db.commit()

    assert re.search(found, damage_of(path))


def test_a_changed_number_of_a_killed_run_is_not_told(sound: Path, tmp_path: Path) -> None:
    """Without an end there is no checksum to compare with."""
    path = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM run WHERE field = 'checksum'")
        db.execute("UPDATE nodes SET name = 'AddBackward0'")
        db.commit()

    assert damage_of(path) == ""


def test_the_damaged_file_of_a_folder_is_named(sound: Path, tmp_path: Path) -> None:
    path = copy_of(sound, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE calls SET scalars = x'00'")
        db.commit()

    for named in (str(tmp_path), str(tmp_path / "*.trace")):
        assert str(path) in str(damage_among(["--json", named]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(name: str, sound: Path, tmp_path: Path) -> None:
    path = copy_of(sound, tmp_path)
    assert rewrite_texts(path, HOSTILE[name]) > 50

    drawn = name in ("script", "image", "zero", "long", "no characters")
    for answer in judge(path, sound, tmp_path, draws=drawn):
        if answer.written is not None and answer.written.suffix in (".svg", ".html"):
            assert "<script>alert" not in answer.written.read_text("utf-8")


SCRIPT = """
def forward(model, x):
    return model(x)

names = globals()
names[HOSTILE] = forward(net, x).mean()
names[HOSTILE].backward()
optimizer.step()
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_can_be_recorded(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    # CPython itself refuses these in the name of a class or a file.
    possible = text.replace("\0", "").encode("utf-8", "replace").decode()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self._modules[text] = nn.Linear(3, 3)
            self._parameters[text] = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._modules[text](self.inner(x)) * self._parameters[text]

    Net.__qualname__ = possible
    net = Net()
    optimizer = type(possible, (torch.optim.SGD,), {})(net.parameters(), lr=0.1)
    space = {"HOSTILE": text, "net": net, "x": torch.ones(2, 4), "optimizer": optimizer}

    with tracer.Recorder(tmp_path / "run.trace", script=text) as recorder:
        exec(compile(SCRIPT, f"{possible}.py", "exec"), space)

    assert recorder.failure == ""
    judge(tmp_path / "run.trace", tmp_path / "run.trace", tmp_path)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs the dot of Graphviz")
@pytest.mark.parametrize("name", HOSTILE)
def test_graphviz_takes_the_dot_of_a_hostile_name(name: str, sound: Path, tmp_path: Path) -> None:
    path = copy_of(sound, tmp_path)
    rewrite_texts(path, HOSTILE[name])
    ask(["graph", str(path), "-o", str(tmp_path / "out.dot")])

    done = subprocess.run(
        ["dot", "-Tplain", str(tmp_path / "out.dot")], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
