"""Hooks on tensors: which nodes have some of the user that may change a gradient, and whence."""

from __future__ import annotations

import functools
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from torch.autograd.function import _HookMixin

from tracer.record.nodes import TENSOR_HOOKS, node_of
from tracer.record.patches import Patches

__all__ = ["RETAINS", "HookCalls", "Ours"]

RETAINS = "tracer_retains"
"""Where `Tensor.retain_grad` leaves word, in a node's metadata: a run adds to the tensor's grad."""


class Ours(functools.partial[None]):
    """A hook of ours on a node. While hooks are watched, registering it returns all hooks there.

    Those are a dict, in which it stands by itself: no handle is made for a hook that is placed on
    each node of each call, and taken off again.
    """

    __slots__ = ()


class HookCalls:
    """Notes the dict of a tensor's hooks on the node that made the tensor.

    A node's own hooks can be counted, those of a tensor cannot be found from its node: they are
    held by C++. The dict is the tensor's, so that a removed hook is gone from it. `line` gives the
    user's line around a frame.

    NOTE [Asking a view for its node]
    Torch makes the node of a view anew when it is asked for it after the base was changed in place,
    and takes the hooks off the tensor then: a question of ours would move the moment, and with it
    which later hooks run. So it is asked only where torch has just asked itself: at the first hook
    on a tensor. At later ones the dict of hooks is noted already.
    """

    def __init__(self, line: Callable[[FrameType], int | None]) -> None:
        self._patches = Patches()
        self._line = line
        self._lines: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def start(self) -> None:
        self._start_tensor_hooks()
        # Every `register_hook` and `register_prehook` of a node comes by here, from C++.
        register_on_node: Any = _HookMixin._register_hook

        @functools.wraps(register_on_node)
        def _register_hook(hooks: Any, hook: Any) -> Any:
            if type(hook) is not Ours:
                return register_on_node(hooks, hook)
            if hooks is None:
                hooks = OrderedDict()
            hooks[hook] = hook
            return hooks, hooks

        self._patches.replace(_HookMixin, "_register_hook", staticmethod(_register_hook))
        register: Any = torch.Tensor.register_post_accumulate_grad_hook

        @functools.wraps(register)
        def noting(tensor: torch.Tensor, hook: Any) -> Any:
            self._note(hook, sys._getframe(1))
            return register(tensor, hook)

        self._patches.replace(torch.Tensor, "register_post_accumulate_grad_hook", noting)

    def lines_of(self, node: Any) -> tuple[int, ...]:
        """The lines that registered the hooks on a node's tensor, as far as they were seen."""
        hooks = [hook for found in node.metadata.get(TENSOR_HOOKS, ()) for hook in found.values()]
        variable = getattr(node, "variable", None)
        if variable is not None:
            hooks += _values(variable._backward_hooks)
            hooks += _values(getattr(variable, "_post_accumulate_grad_hooks", None))
        return tuple(line for hook in hooks if (line := self._known(hook)) is not None)

    def _known(self, hook: Any) -> int | None:
        with suppress(TypeError):  # not hashable, or takes no weak reference
            return self._lines.get(hook)
        return None

    def _note(self, hook: Any, frame: FrameType) -> None:
        line = self._line(frame)
        if line is not None:
            with suppress(TypeError):
                self._lines[hook] = line

    def _start_tensor_hooks(self) -> None:
        register_hook: Any = torch.Tensor.register_hook

        @functools.wraps(register_hook)
        def noting(tensor: torch.Tensor, hook: Any) -> Any:
            told = tensor._backward_hooks is None or not tensor._is_view()
            handle = register_hook(tensor, hook)
            self._note(hook, sys._getframe(1))
            node = node_of(tensor) if told else None
            hooks = getattr(tensor, "_backward_hooks", None)
            if node is not None and hooks is not None:
                noted = node.metadata.setdefault(TENSOR_HOOKS, [])
                if not any(known is hooks for known in noted):
                    noted.append(hooks)
            return handle

        self._patches.replace(torch.Tensor, "register_hook", noting)
        retain_grad: Any = torch.Tensor.retain_grad

        @functools.wraps(retain_grad)
        def retaining(tensor: torch.Tensor) -> None:
            told = not (tensor.retains_grad and tensor._is_view())
            retain_grad(tensor)
            node = node_of(tensor) if told else None
            if node is not None:
                node.metadata[RETAINS] = True

        self._patches.replace(torch.Tensor, "retain_grad", retaining)

    def stop(self) -> None:
        self._patches.restore()


def _values(hooks: Any) -> Iterable[Any]:
    return list(hooks.values()) if hooks else []
