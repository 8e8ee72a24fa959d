"""Corner cases on traces made by hand; no torch."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sketch, deep, repeated
from tracer.analysis.callfacts import CallFacts
from tracer.analysis.chain import START, chain_of, dominators
from tracer.analysis.exact import said, tidy
from tracer.analysis.explain import Explainer, Explanation
from tracer.errors import NothingRecorded, UnknownName
from tracer.tracefile import load
from tracer.views.explain import explanation_text, overview_text
from tracer.views.terminal import Ink

MEAN = Op("MeanBackward0", 3, saved={"self_sym_sizes": [4]})


def explained(path: Path, name: str = "w", step: int | None = None) -> list[Explanation]:
    with load(path) as trace:
        return Explainer(trace).parameter(name, step)


# Numbers.


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (0.125, Fraction(1, 8)),
        (0.33333334, Fraction(1, 3)),
        (1 / 65536, Fraction(1, 65536)),
        (0.6666667, Fraction(2, 3)),
        (-3.0000001, Fraction(-3)),
        (0.0, Fraction(0)),
        (1 / 720, Fraction(1, 720)),
        (16777216.0, Fraction(2**24)),
    ],
)
def test_a_measured_factor_is_the_fraction_that_is_meant(value: float, meant: Fraction) -> None:
    assert tidy(value) == meant


@pytest.mark.parametrize("value", [0.31622777, 0.7853981, 3.1415927, 0.00123457])
def test_an_odd_number_stays_as_it_is(value: float) -> None:
    assert tidy(value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(1, 8), "1/8"),
        (Fraction(3), "3"),
        (Fraction(1, 65536), "1/65536"),
        (0.31622776, "0.3162"),
        (None, "?"),
    ],
)
def test_factors_are_said_as_a_person_would(value: Fraction | float | None, text: str) -> None:
    assert said(value) == text


# The chain.


def test_the_chain_has_what_every_path_passes(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    operations = [
        MEAN,
        Op("AddBackward0", 2),
        Op("SinBackward0", 2),
        Op("CosBackward0", 2),
        Op("TanhBackward0", 1),
        Op("AccumulateGrad", buffer=w),
    ]
    part = Grad((4,), 0.25)
    sent = [
        (0, 1, part), ((1, 0), 2, part), ((1, 1), 3, part),
        (2, 4, part), (3, 4, part), (4, 5, Grad((4,), 0.5)),
    ]  # fmt: skip
    sketch.call(operations, sent, after={w: Grad((4,), 0.5)})
    with load(sketch.close()) as trace:
        facts = CallFacts(trace, trace.calls[0])

        assert dominators(facts) == {0: START, 1: 0, 2: 1, 3: 1, 4: 1, 5: 4}
        assert [link.node for link in chain_of(facts, 5)] == [0, 1, 4, 5]


def test_a_deep_graph_is_followed_without_recursion(tmp_path: Path) -> None:
    (found,) = explained(deep(tmp_path / "t.trace", 20_000))

    assert len(found.chain) == 20_001


# Buffers.


def fill(sketch: Sketch, w: int, **options: object) -> None:
    part = Grad((4,), 0.25)
    sketch.call(
        [MEAN, Op("SinBackward0", 2), Op("AccumulateGrad", buffer=w)],
        [(0, 1, part), (1, 2, part)],
        **options,
    )


def test_content_from_before_the_recording_is_not_explained(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    fill(sketch, w, before={w: Grad((4,), 1.0)}, after={w: Grad((4,), 1.25)})
    (found,) = explained(sketch.close())

    assert found.verdict.words.startswith("not known: the buffer held something before")


def test_an_edit_that_nobody_announced_is_found_between_two_events(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    fill(sketch, w, after={w: Grad((4,), 0.25)})
    sketch.step({w: Grad((4,), 0.0625)})
    (found,) = explained(sketch.close())

    (change,) = found.ledger.history.entries[0].changes
    assert change.factor == Fraction(1, 4)
    assert not change.is_announced
    assert found.verdict.words == "1/4 x the mean gradient, over all 4 items"
    assert found.balance == 0


def test_steps_that_were_not_recorded_leave_nothing_to_be_told(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    fill(sketch, w, after={w: Grad((4,), 0.25)})
    sketch.step({w: Grad((4,), 0.25)})
    fill(sketch, w, step=5, before={w: Grad((4,), 2.0)}, after={w: Grad((4,), 2.25)})
    sketch.step({w: Grad((4,), 2.25)}, step=5)
    (found,) = explained(sketch.close(), step=5)

    assert found.verdict.words.startswith("not known")


def test_a_step_that_is_not_there_is_named(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    fill(sketch, w, after={w: Grad((4,), 0.25)})
    sketch.step({w: Grad((4,), 0.25)})
    path = sketch.close()

    with pytest.raises(UnknownName, match=r"no step 7 .* consumed at step 1"):
        explained(path, step=7)


def test_a_trace_without_calls_says_so(tmp_path: Path) -> None:
    path = Sketch(tmp_path / "t.trace").close()

    with load(path) as trace, pytest.raises(NothingRecorded):
        Explainer(trace)


def test_a_rule_that_the_numbers_contradict_is_not_believed(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace")
    w = sketch.buffer("w", (4,))
    sketch.call(
        [MEAN, Op("MulBackward0", 2, saved={"other": 2.0}), Op("SinBackward0", 1),
         Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((4,), 0.25)), (1, 2, Grad((4,), 0.9)), (2, 3, Grad((4,), 0.9))],
        after={w: Grad((4,), 0.9)},
    )  # fmt: skip
    (found,) = explained(sketch.close())

    assert found.ledger.rows[0].weight is None
    assert "differs from what the rules say" in found.verdict.words


# What is printed.


def test_three_calls_read_like_this(tmp_path: Path) -> None:
    path = repeated(tmp_path / "t.trace")
    with load(path) as trace:
        text = explanation_text(Explainer(trace).parameter("w"), trace, Ink())

    assert text.split("\n\n")[0].splitlines() == [
        "w   |grad| 3 after backward call 3, not consumed by an optimizer   balanced exactly",
        "  items           mean  4 items, 1/4 each                             "
        "repeated_backward.py:14",
        "  replicas        -     one replica",
        "  backward calls  SUM   3 calls, not divided  no zero_grad between    "
        "repeated_backward.py:15",
        "  ranks           -     single process",
        "  => 3 x the mean gradient, over all 12 items.",
        "     One item adds 1/4 x its own gradient.",
    ]


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path / "t.trace", "a\x1b[31m.py")
    w = sketch.buffer("w\x1b[2J\n", (4,))
    fill(sketch, w, after={w: Grad((4,), 0.25)})
    with load(sketch.close()) as trace:
        explainer = Explainer(trace)
        texts = (
            explanation_text(explainer.parameter("w\x1b[2J\n"), trace, Ink()),
            overview_text(explainer.overview(), trace, Ink()),
        )

    for text in texts:
        assert "\x1b" not in text
        assert "\\x1b[2J" in text
