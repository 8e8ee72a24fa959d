"""Others that look at gradients or graphs, around the same training step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

__all__ = ["installed"]


@contextmanager
def printed_norms() -> Iterator[None]:
    """What people write by hand: a hook on every leaf that takes the norm of its gradient."""
    norms: list[float] = []
    backward = torch.Tensor.backward

    def hooked(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        handles = [
            leaf.register_post_accumulate_grad_hook(lambda p: norms.append(p.grad.norm().item()))
            for leaf in _leaves(self.grad_fn)
        ]
        try:
            backward(self, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            norms.clear()

    torch.Tensor.backward = hooked  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def _leaves(root: Any) -> list[torch.Tensor]:
    seen, waiting, leaves = {root}, [root], []
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
    return leaves


@contextmanager
def anomaly_mode() -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True):
        yield


@contextmanager
def debug_mode() -> Iterator[None]:
    """torch's own log of every operator, forward and backward."""
    from torch.utils._debug_mode import DebugMode

    with DebugMode():
        yield


@contextmanager
def _drawing(draw: Callable[[torch.Tensor], object]) -> Iterator[None]:
    """Call `draw` on every loss before its backward call."""
    backward = torch.Tensor.backward

    def drawing(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        draw(self)
        backward(self, *args, **kwargs)

    torch.Tensor.backward = drawing  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


@contextmanager
def torchviz() -> Iterator[None]:
    """A graph without values, drawn to DOT text in each step."""
    from torchviz import make_dot

    with _drawing(make_dot):
        yield


def installed() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Those that can be had here, by the words that the table uses."""
    found: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "norms of leaves by hand": printed_norms,
        "anomaly mode": anomaly_mode,
    }
    if importlib.util.find_spec("torch.utils._debug_mode"):
        found["torch DebugMode (all operators)"] = debug_mode
    if importlib.util.find_spec("torchviz"):
        found["torchviz (graph, no values)"] = torchviz
    return found
