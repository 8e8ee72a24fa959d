"""The picture of one parameter: the slice, and what was done with its gradient afterwards."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.analysis.test_matrix import Reverse
from tracer.analysis.explain import Explainer
from tracer.views.explain_svg import explanation_svg

SPACE = "{http://www.w3.org/2000/svg}"


def train() -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    w.register_hook(lambda gradient: gradient / 2)
    for _ in range(2):
        answers = Reverse.apply(torch.ones(8, 3) @ w, 0.25)
        scaler.scale(F.mse_loss(answers, torch.zeros(8, 4))).backward()
    scaler.unscale_(optimizer)
    w.grad /= 2
    nn.utils.clip_grad_value_([w], 1e-4)
    scaler.step(optimizer)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("svg") / "t.trace"
    with tracer.Recorder(path):
        train()
    with tracer.load(path) as trace:
        (one,) = Explainer(trace).parameter("w")
        picture = explanation_svg(one, trace)
    return [" ".join((e.text or "").split()) for e in ET.fromstring(picture).iter(f"{SPACE}text")]


def test_factors_stand_on_the_way(texts: list[str]) -> None:
    assert texts.count("× 1024") == 2
    assert texts.count("mean 1/32") == 2
    assert texts.count("× -1/4") == 2
    assert "1 hook × 1/2" in texts
    assert "Σ 2 calls" in texts


def test_what_came_after_stands_beneath_in_order(texts: list[str]) -> None:
    after = ["unscaled", "× 1/1024", "changed by hand", "× 1/2", "clipped by value", "no factor"]
    places = [texts.index(text) for text in after]
    assert places == sorted(places)
    assert texts.index("Σ 2 calls") < places[0]
    (update,) = [text for text in texts if text.startswith("SGD takes |grad|")]
    assert texts.index(update) > places[-1]
    assert "lr 0.1, momentum 0.9" in texts
