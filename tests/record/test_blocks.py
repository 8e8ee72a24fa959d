"""The loops and conditions around a line are those that it is indented under, in its function."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.record.blocks import assignments_before, blocks_around

SCRIPT = """\
import torch


def train(loader):
    for epoch in range(3):
        for i, batch in enumerate(
            loader
        ):
            loss = model(
                batch,
            )
            if i % 4 == 3:
                # not a line
                with scope():

                    step()
            elif i:
                other()
    done()


while True:
    train([])
"""


@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("step()", ("for epoch in range(3):", "for i, batch in enumerate(", "if i % 4 == 3:",
                    "with scope():")),
        ("batch,", ("for epoch in range(3):", "for i, batch in enumerate(")),
        ("other()", ("for epoch in range(3):", "for i, batch in enumerate(", "elif i:")),
        ("done()", ()),
        ("train([])", ("while True:",)),
        ("import torch", ()),
    ],
)  # fmt: skip
def test_a_line_stands_within_what_it_is_indented_under(
    tmp_path: Path, text: str, around: tuple[str, ...]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    lines = [line.strip() for line in SCRIPT.splitlines()]

    assert blocks_around(str(script), lines.index(text) + 1) == around


def test_a_line_of_no_file_stands_within_nothing() -> None:
    assert blocks_around("<string>", 3) == ()


def test_the_variables_of_a_line_have_the_values_of_the_last_lines_before(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""\
t = 0

def loss(p, y):
    t = y.view(-1)
    t: Tensor = y.view(1, -1)
    a, d = p == t, 3
    return (d * (p - t)).mean()
""")

    assert assignments_before(str(script), 7) == ("a, d = p == t, 3", "t: Tensor = y.view(1, -1)")
    assert assignments_before(str(script), 4) == ()
