"""Others that look at gradients or graphs, around the same training step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

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


@contextmanager
def _looking(look: Callable[[nn.Module, tuple[Any, ...]], object]) -> Iterator[None]:
    """Hand every outermost module to `look` before it is called, with its arguments."""
    call = nn.Module.__call__
    inside = False

    def looking(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return call(module, *args, **kwargs)
        inside = True
        try:
            look(module, args)
            return call(module, *args, **kwargs)
        finally:
            inside = False

    nn.Module.__call__ = looking  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]


@contextmanager
def torchview() -> Iterator[None]:
    """The graph of the forward pass, which it runs once more; no values, no backward pass."""
    from torchview import draw_graph

    with _looking(lambda module, args: draw_graph(module, input_data=args, device="cpu")):
        yield


@contextmanager
def torchlens() -> Iterator[None]:
    """Every operation of the forward pass with its output, in a run of its own; no backward."""
    from torchlens import trace

    with _looking(lambda module, args: trace(module, list(args))):
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
    if importlib.util.find_spec("torchview"):
        found["torchview (forward, no values)"] = torchview
    if importlib.util.find_spec("torchlens"):  # last: it wraps torch's functions for good
        found["torchlens (forward, all outputs)"] = torchlens
    return found
