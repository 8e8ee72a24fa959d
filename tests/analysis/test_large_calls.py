"""A large call is followed by numbers: what is said of it is what following each node says."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tracer
from tests.graph.sketch import Grad, Op, Sketch
from tracer import columns
from tracer.analysis import flow
from tracer.analysis.explain import Explainer
from tracer.analysis.runs import Runs
from tracer.analysis.strand import MOST_FACTORS, Factor, Scaling, Strand
from tracer.tracefile import load
from tracer.views.explain import explanation_text, overview_text
from tracer.views.terminal import Ink

ONE = Fraction(1)


def doubled(gradient: Tensor) -> Tensor:
    return 2 * gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


def multiplied(times: int, by: float, kind: type[torch.Tensor] = Tensor) -> Callable[[], object]:
    def script() -> None:
        w = torch.ones(8, requires_grad=True)
        x = w
        for _ in range(times):
            x = x * by
        x.sum().backward()

    del kind
    return script
