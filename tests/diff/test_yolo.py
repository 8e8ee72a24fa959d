"""The puzzle that this project began with: one detector, and how four code bases size its steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.diff.runs import compared, headline, record, section, text_of

SAMPLE = Path(__file__).parents[2] / "samples" / "yolo_toy.py"
Traces = Callable[..., Path]


@pytest.fixture(scope="module")
def yolo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("yolo_toy_for_diff", SAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    conventions: dict[str, type] = module.CONVENTIONS
    conventions["subdivisions"] = with_subdivisions(module)
    return module


def with_subdivisions(yolo: Any) -> type:
    """The mean over the images of a micro-batch; the subdivisions are added and not divided."""

    class Subdivisions(yolo.Convention):  # type: ignore[misc]
        weights = yolo.SUM_WEIGHTS
        lr, decay = 0.001, 0.0005

        def __init__(self, batch_size: int) -> None:
            pass

        def reduce(self, losses: dict[str, Any], batch: Any) -> dict[str, Any]:
            return {name: term.sum() / len(batch.images) for name, term in losses.items()}

    return Subdivisions


@pytest.fixture(scope="module")
def trace(yolo: Any, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    folder = tmp_path_factory.mktemp("yolo")

    def recorded(convention: str, *options: str) -> Path:
        path = folder / f"{'_'.join((convention, *options)).replace('--', '')}.trace"
        words = ["--convention", convention, "--image-size", "32", "--steps", "2", *options]
        return path if path.exists() else record(path, lambda: yolo.train(yolo.parse(words)))

    return recorded


def test_darknet_and_gluon_take_the_same_steps_from_gradients_a_batch_apart(trace: Traces) -> None:
    text = text_of(trace("darknet"), trace("gluon"))

    assert headline(text) == "Gradients 1/8 x as large in B, but the same steps."
    assert section(text, "gradients") == [
        "B = 1/8 x A for 58 of 58 parameters, at steps 1 to 2; 8 is the number of samples in a step"
    ]
    for line in section(text, "steps"):
        assert "the same: gradient x 1/8, lr x 8; lr 0.000125 in A, 0.001 in B" in line
        assert "decay" not in line or "decay of 5e-07 x weight in both" in line
    (parted,) = section(text, "where they part")
    assert parted.startswith(
        "first behind the loss: nothing in A, x 1/8 changed by hand (between yolo_toy.py:"
    )
    assert "x lr: one sample moves  0.000125 x 1 = 0.000125" in text
    assert "0.001 x 1/8 = 0.000125" in text


def test_a_batch_that_is_no_power_of_two_is_a_sixth(trace: Traces) -> None:
    options = ("--batch", "6", "--dtype", "float64")
    with compared(trace("darknet", *options), trace("gluon", *options)) as found:
        assert [c.factor for moment in found.moments for c in moment.clusters] == [
            Fraction(1, 6), Fraction(1, 6),
        ]  # fmt: skip
        assert all(update.updates.is_same for update in found.updates)


def test_subdivisions_that_nobody_divides_are_a_factor_of_their_number(trace: Traces) -> None:
    text = text_of(trace("gluon"), trace("subdivisions"))

    assert headline(text) == "Gradients and steps 2 x as large in B."
    assert section(text, "gradients")[0] == "B = 2 x A for 58 of 58 parameters, at step 1"
    first, then = section(text, "where they part")[:2]
    assert "x 1/4 (test_yolo.py:" in first
    assert then == "then x 8 behind the loss; together: 1/4 x 8 = 2"


def test_four_subdivisions_are_a_factor_of_four(trace: Traces) -> None:
    options = ("--subdivisions", "4")

    with compared(trace("gluon", *options), trace("subdivisions", *options)) as found:
        assert [cluster.factor for cluster in found.moments[0].clusters] == [4]


def test_ultralytics_weighs_the_terms_and_their_items_otherwise(trace: Traces) -> None:
    size = ("--image-size", "96")
    with compared(trace("darknet", *size), trace("ultralytics", *size)) as found:
        (exhibit,) = found.exhibits
        objectness, xy, *_ = exhibit.partings
        # The mean over the anchors of an image, times the images: 1 each, as darknet's sum.
        assert objectness.b.unit_weight == 1
        # 20 coordinates of boxes in the first call and 10 in the second: 4 images x 0.05 / items.
        assert [(w.items, w.a, w.b) for w in xy.weighings] == [
            (20, 2, Fraction(1, 100)), (10, 2, Fraction(1, 50)),
        ]  # fmt: skip
    text = text_of(trace("darknet", *size), trace("ultralytics", *size))

    assert headline(text) == (
        "Different directions: items do not weigh the same against one another."
    )
    assert section(text, "gradients")[0].startswith("not proportional for 58 of 58 parameters")
    assert "with the lr (x 80)" in text
    assert "call 1    20     2             1/100  1/200  x 0.4" in text
    assert "call 2    10     2             1/50   1/100  x 0.8" in text
