"""Unmodified scripts, run as a person would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

RUNNER = """
import runpy, sys
from tracer.devices import virtual_gpus
gpus, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
with virtual_gpus(int(gpus)):
    runpy.run_path(script, run_name="__main__")
"""

TRAINING = """
import sys
import warnings
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("error")
warnings.simplefilter("ignore", FutureWarning)
assert torch.cuda.is_available(), "this script needs CUDA"
torch.cuda.set_device(0)
device = torch.device("cuda", torch.cuda.current_device())
torch.manual_seed(0)
torch.cuda.manual_seed_all(0)
torch.backends.cudnn.benchmark = True

data = TensorDataset(torch.randn(22, 3, 8, 8), torch.randint(0, 10, (22,)))
loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=1, pin_memory=True)
features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
net = nn.Sequential(*features, nn.Linear(288, 10))
model = nn.DataParallel(net.to(device))
criterion = nn.CrossEntropyLoss().cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
scaler = torch.cuda.amp.GradScaler()
for epoch in range(2):
    for images, labels in loader:
        images, labels = images.cuda(non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.cuda.amp.autocast():
            loss = criterion(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    scheduler.step()
    torch.cuda.synchronize()
    print(f"epoch {epoch} memory {torch.cuda.max_memory_allocated() // 2**30} GB")
torch.save({"net": model.state_dict(), "optimizer": optimizer.state_dict()}, sys.argv[1])

checkpoint = torch.load(sys.argv[1], map_location="cpu")
assert all(value.device.type == "cpu" for value in checkpoint["net"].values())
model.load_state_dict(checkpoint["net"])
optimizer.load_state_dict(checkpoint["optimizer"])
with torch.no_grad():
    model.eval()
    print(tuple(model(torch.zeros(3, 3, 8, 8, device=device)).shape), loss.device)
"""


def run(gpus: int, script: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(gpus), str(script), *arguments],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_script_for_cuda_runs_unmodified(tmp_path: Path) -> None:
    script, checkpoint = tmp_path / "train.py", tmp_path / "net.pt"
    script.write_text(TRAINING)

    printed = run(2, script, str(checkpoint))

    assert printed.splitlines() == ["epoch 0 memory 0 GB", "epoch 1 memory 0 GB", "(3, 10) cuda:0"]
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert loaded["net"]["module.4.weight"].shape == (10, 288)


def test_replicas_with_factors_one_and_two_add_up_to_one_and_a_half() -> None:
    printed = run(2, ROOT / "samples" / "replicas.py")

    assert printed.splitlines() == [
        "factors [1, 2], captured tensor  w.grad = 1.5, 3, 4.5",
        "factors [1, 2], parameter        w.grad = 1.5, 3, 4.5",
        "factors [1, 5], captured tensor  w.grad = 3, 6, 9",
        "factors [1, 5], parameter        w.grad = 3, 6, 9",
    ]


@pytest.mark.parametrize("convention", ["darknet", "ultralytics"])
def test_the_detector_trains_on_two_gpus_as_on_one(convention: str) -> None:
    sample = ROOT / "samples" / "yolo_toy.py"
    options = ["--convention", convention, "--steps", "1", "--image-size", "32", "--batch", "4"]

    assert run(2, sample, *options).startswith("step  1  objectness")
