"""The samples without the tracer: what they print, and that their claims hold."""

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SAMPLES = Path(__file__).parent.parent / "samples"


def output_of(sample: str, *arguments: str) -> list[str]:
    """The lines that a sample prints in a process of its own, on a machine without GPUs."""
    run = subprocess.run(
        [sys.executable, SAMPLES / sample, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    return run.stdout.splitlines()


@pytest.fixture
def yolo_toy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the toy defines; on the CPU always, as not every kernel of a GPU repeats itself."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return SimpleNamespace(**runpy.run_path(str(SAMPLES / "yolo_toy.py")))


def trained(yolo_toy: SimpleNamespace, arguments: str) -> torch.nn.Module:
    return yolo_toy.train(yolo_toy.parse(arguments.split()))


@torch.no_grad()
def relative_difference(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """How far two models have come apart, as a part of their size; the worst parameter counts."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).norm() / q.norm()) for p, q in pairs)


def totals(lines: list[str]) -> list[float]:
    return [float(line.split("total")[1]) for line in lines]


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_a_sample_imports_only_torch_and_the_standard_library(sample: Path):
    imported = set()
    for node in ast.walk(ast.parse(sample.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])

    others = {path.stem for path in SAMPLES.glob("*.py")}
    assert imported - sys.stdlib_module_names - others == {"torch"}


def test_repeated_backward_calls_are_summed():
    assert output_of("repeated_backward.py") == [
        "after backward call 1: w.grad = 1",
        "after backward call 2: w.grad = 2",
        "after backward call 3: w.grad = 3",
    ]


def test_the_batch_size_shows_in_the_gradient_of_a_sum_and_not_of_a_mean():
    assert output_of("batch_size.py") == [
        "batch    mean     sum",
        "    1       3       3",
        "    2       3       6",
        "    4       3      12",
        "   16       3      48",
    ]


def test_without_gpus_there_is_one_replica_and_the_calls_are_summed():
    assert output_of("replicas.py") == [
        "factors [1, 2], captured tensor  w.grad = 1, 2, 3",
        "factors [1, 2], parameter        w.grad = 1, 2, 3",
        "factors [1, 5], captured tensor  w.grad = 1, 2, 3",
        "factors [1, 5], parameter        w.grad = 1, 2, 3",
    ]


def test_the_toy_prints_the_terms_of_each_step_and_the_same_ones_again():
    first, again = output_of("yolo_toy.py"), output_of("yolo_toy.py")

    assert [line.split()[::2] for line in first] == [
        ["step", "objectness", "xy", "wh", "class", "total"]
    ] * 4
    assert first == again


def test_the_toy_refuses_an_image_that_its_grids_do_not_divide(yolo_toy, capsys):
    with pytest.raises(SystemExit):
        yolo_toy.parse(["--image-size", "100"])

    assert "--image-size 100 is not a multiple of 16" in capsys.readouterr().err


@pytest.mark.parametrize("convention", ["darknet", "gluon", "ultralytics"])
def test_the_loss_goes_down(yolo_toy, capsys, convention):
    trained(yolo_toy, f"--convention {convention} --steps 8")

    before, *_, after = totals(capsys.readouterr().out.splitlines())
    assert after < 0.8 * before


# Dividing by 8 rounds nothing. Dividing by 6 does, and each kink of a leaky ReLU that an activation
# crosses on one side only makes more of it; in double precision that stays out of sight.
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [("--batch 8 --dtype float32", 1e-6), ("--batch 6 --dtype float64", 1e-12)],
)
def test_darknet_and_gluon_take_the_same_steps(yolo_toy, options, tolerance):
    darknet = trained(yolo_toy, f"--convention darknet --steps 4 {options}")
    gluon = trained(yolo_toy, f"--convention gluon --steps 4 {options}")

    assert relative_difference(darknet, gluon) < tolerance


def test_ultralytics_takes_other_steps(yolo_toy):
    darknet = trained(yolo_toy, "--convention darknet --steps 2")
    ultralytics = trained(yolo_toy, "--convention ultralytics --steps 2")

    assert relative_difference(ultralytics, darknet) > 1e-3


def test_the_gradients_of_darknet_are_those_of_gluon_times_the_batch_size(yolo_toy):
    options = "--batch 6 --steps 1 --dtype float64"
    darknet = trained(yolo_toy, f"--convention darknet {options}")
    gluon = trained(yolo_toy, f"--convention gluon {options}")

    for p, q in zip(darknet.parameters(), gluon.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 6 * q.grad, rtol=1e-9, atol=1e-9)


def test_an_anchor_answers_in_the_row_of_its_target(yolo_toy):
    box = yolo_toy.Box(x=0.8, y=0.2, w=0.15, h=0.30, label=0)
    best = max(yolo_toy.candidates(box, image_size=96))
    rows_of_the_coarse_scale = 3 * 6 * 6

    # A head whose first answer is where it stands: anchor, line and column, one digit pair each.
    head = yolo_toy.Head(channels=1, anchors=3)
    head.block = torch.nn.Identity()
    torch.nn.init.constant_(head.predict.weight, 0.5)
    head.predict.bias.data = torch.tensor([0.0, 10000, 20000]).repeat_interleave(yolo_toy.ANSWERS)
    line_and_column = 100 * torch.arange(12.0)[:, None] + torch.arange(12.0)
    answers = head(line_and_column.expand(1, 2, 12, 12))

    assert answers.shape == (1, 3 * 12 * 12, yolo_toy.ANSWERS)
    assert answers[0, best.row - rows_of_the_coarse_scale, 0].item() == 1_02_09
