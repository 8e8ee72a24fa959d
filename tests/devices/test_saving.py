"""Files and pickles: written on virtual GPUs, read anywhere."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ONE = torch.device("cuda", 1)


@pytest.fixture
def saved(two_gpus: None, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, 0.5)
    torch.save(net.cuda(1).state_dict(), path)
    return path


def test_a_file_remembers_the_gpu(saved: Path) -> None:
    loaded = torch.load(saved)["weight"]

    assert loaded.device == ONE
    assert loaded.tolist() == [[0.5] * 3] * 2


def test_a_file_is_loaded_where_it_is_told(saved: Path) -> None:
    places = {
        "cpu": "cpu",
        "cuda:0": "cuda:0",
        torch.device("cuda", 0): "cuda:0",
        "cuda": "cuda:0",
    }
    for asked, got in places.items():
        assert str(torch.load(saved, map_location=asked)["weight"].device) == got
    moved = torch.load(saved, map_location={"cuda:1": "cuda:0"})
    assert str(moved["weight"].device) == "cuda:0"
    stays = torch.load(saved, map_location=lambda storage, location: storage)
    assert stays["weight"].device.type == "cpu"
    told = torch.load(saved, map_location=lambda storage, location: storage.cuda(0))
    assert str(told["weight"].device) == "cuda:0"
    assert type(torch.load(saved, map_location="cpu")["weight"]) is torch.Tensor


def test_plain_torch_loads_the_file_safely(saved: Path) -> None:
    program = (
        "import sys, torch; d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
        "w = d['weight']; print(type(w).__name__, w.device, w.sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(saved)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "Tensor cpu 3.0\n", done.stderr


def test_a_file_of_plain_torch_is_loaded_onto_a_gpu(tmp_path: Path, two_gpus: None) -> None:
    path = tmp_path / "plain.pt"
    torch.save({"w": torch.arange(3.0)}, path)

    assert torch.load(path, map_location="cuda:1")["w"].device == ONE
    assert torch.load(path)["w"].device.type == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_whole_modules_optimizers_and_shared_memory_are_kept() -> None:
    net = nn.Linear(3, 2).cuda(1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3, device=ONE)).sum().backward()
    optimizer.step()
    buffer = io.BytesIO()
    whole = torch.arange(4.0, device=ONE)
    torch.save({"net": net, "state": optimizer.state_dict(), "a": whole, "b": whole[1:]}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)

    assert isinstance(loaded["net"].weight, nn.Parameter)
    assert loaded["net"].weight.device == ONE
    assert loaded["state"]["state"][0]["exp_avg"].device == ONE
    loaded["a"][1] = 9
    assert loaded["b"].tolist() == [9, 2, 3]


@pytest.mark.usefixtures("two_gpus")
def test_a_pickle_keeps_device_and_gradient_need() -> None:
    x = torch.ones(2, device=ONE, requires_grad=True)
    copied = pickle.loads(pickle.dumps(x))  # noqa: S301 - our own

    assert (copied.device, copied.requires_grad, copied.tolist()) == (ONE, True, [1, 1])
    assert pickle.loads(pickle.dumps(x.device)) == ONE  # noqa: S301
