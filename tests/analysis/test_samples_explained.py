"""The samples, recorded in a process of their own: what `explain` answers."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

import tracer
from tracer.analysis.explain import Explainer, Explanation

ROOT = Path(__file__).parents[2]
PARAMETER = "backbone.0.conv.weight"


def record(folder: Path, sample: str, *words: str, gpus: int | None = None) -> Path:
    path = folder / f"{'-'.join((sample, *words, *([str(gpus)] if gpus else [])))}.trace"
    command = [sys.executable, ROOT / "cli.py", "trace", "--no-svg", "-o", path]
    command += [] if gpus is None else ["--gpus", str(gpus)]
    subprocess.run(
        [*command, ROOT / "samples" / f"{sample}.py", *words], check=True, capture_output=True
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def yolo(folder: Path) -> dict[str, Explanation]:
    found = {}
    for convention in ("darknet", "gluon", "ultralytics"):
        path = record(folder, "yolo_toy", "--convention", convention, "--steps", "1")
        with tracer.load(path) as trace:
            (found[convention],) = Explainer(trace).parameter(PARAMETER)
    return found


def steps_per_sample(found: Explanation) -> list[float]:
    assert found.optimizer is not None
    assert found.optimizer.lr is not None
    weights = [float(term.unit_weight) for term in found.verdict.terms if term.unit_weight]
    return sorted(found.optimizer.lr * weight for weight in weights)


def test_batch_size_tells_mean_from_sum(folder: Path) -> None:
    with tracer.load(record(folder, "batch_size")) as trace:
        answers = [one.verdict.words for one in Explainer(trace).parameter("w")]

    assert answers[2:] == [
        "the mean over all 2 items",
        "the sum over all 2 items",
        "the mean over all 4 items",
        "the sum over all 4 items",
        "the mean over all 16 items",
        "the sum over all 16 items",
    ]


def test_repeated_backward_is_a_sum(folder: Path) -> None:
    with tracer.load(record(folder, "repeated_backward")) as trace:
        (found,) = Explainer(trace).parameter("w")

    assert found.verdict.words == "3 x the mean gradient, over all 12 items"


def test_darknet_and_gluon_move_a_weight_alike(yolo: dict[str, Explanation]) -> None:
    darknet, gluon = steps_per_sample(yolo["darknet"]), steps_per_sample(yolo["gluon"])

    assert len(darknet) == 4
    assert darknet == pytest.approx(gluon, rel=1e-12)
    assert darknet == pytest.approx([0.000125, 0.000125, 0.000125, 0.00025])


def test_darknet_sums_and_nothing_divides(yolo: dict[str, Explanation]) -> None:
    rows = yolo["darknet"].ledger.rows

    assert {(row.number, row.items, row.weight) for row in rows} == {
        (call, items, weight)
        for call in (1, 2)
        for items, weight in ((6480, 1), (4320, 1), (4320, 2), (2160, 1))
    }


def test_gluon_divides_between_the_last_call_and_the_step(yolo: dict[str, Explanation]) -> None:
    found = yolo["gluon"]

    (edit,) = {change for entry in found.ledger.history.entries for change in entry.changes}
    assert edit.factor == Fraction(1, 8)
    assert not edit.is_announced
    assert {row.weight for row in found.ledger.rows} == {Fraction(1, 8), Fraction(1, 4)}


def test_ultralytics_weighs_a_box_by_how_many_there_are(yolo: dict[str, Explanation]) -> None:
    kinds = {term.kind for term in yolo["ultralytics"].verdict.terms}
    objectness = next(t for t in yolo["ultralytics"].verdict.terms if t.kind == "sum")

    assert kinds == {"sum", "unequal"}
    assert objectness.words == (
        "the sum over all 8 samples, each the mean of its 540 elements, each times a number of its "
        "own (line 263)"
    )
    assert objectness.unit_weight == 1


def totals(found: Explanation) -> list[float]:
    """The weights of all items of each loss together."""
    return sorted(float(term.total) for term in found.verdict.terms if term.total is not None)


def test_ultralytics_steps_further_with_the_batch_and_not_with_the_devices(
    folder: Path, yolo: dict[str, Explanation]
) -> None:
    words = ("yolo_toy", "--convention", "ultralytics", "--steps", "1")
    found = {}
    for name, path in (
        ("one device", record(folder, *words, gpus=1)),
        ("half the batch", record(folder, *words, "--batch", "4")),
    ):
        with tracer.load(path) as trace:
            (found[name],) = Explainer(trace).parameter(PARAMETER)

    whole = totals(yolo["ultralytics"])
    assert totals(found["one device"]) == pytest.approx(whole, rel=1e-9)
    assert totals(found["half the batch"]) == pytest.approx([t / 2 for t in whole], rel=1e-9)
    objectness = next(t for t in found["half the batch"].verdict.terms if t.kind == "sum")
    assert objectness.unit_weight == 1


def test_every_sample_is_read_in_under_a_second(folder: Path, yolo: object) -> None:
    code = (
        "import sys, json; from tracer.commands import explain; import argparse;"
        "parser = argparse.ArgumentParser(); explain.add_options(parser);"
        "code = explain.run(parser.parse_args(sys.argv[1:]));"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    for path in sorted(folder.glob("*.trace")):
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code, path, "--json"], cwd=ROOT, capture_output=True, check=True
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        # 0.15 s on an idle machine; of its own time, whatever else is at work.
        assert ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime < 1.5
        assert json.loads(done.stdout)["schema"] == 1
