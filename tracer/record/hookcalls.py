"""`Tensor.register_hook`: which nodes have hooks of the user that may change a gradient."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tracer.record.nodes import TENSOR_HOOKS
from tracer.record.patches import Patches

__all__ = ["HookCalls"]


class HookCalls:
    """Notes the dict of a tensor's hooks on the node that made the tensor.

    A node's own hooks can be counted, those of a tensor cannot be found from its node: they are
    held by C++. The dict is the tensor's, so that a removed hook is gone from it.
    """

    def __init__(self) -> None:
        self._patches = Patches()

    def start(self) -> None:
        register_hook: Any = torch.Tensor.register_hook

        @functools.wraps(register_hook)
        def noting(tensor: torch.Tensor, hook: Any) -> Any:
            handle = register_hook(tensor, hook)
            node = getattr(tensor, "grad_fn", None)
            hooks = getattr(tensor, "_backward_hooks", None)
            if node is not None and hooks is not None:
                noted = node.metadata.setdefault(TENSOR_HOOKS, [])
                if not any(known is hooks for known in noted):
                    noted.append(hooks)
            return handle

        self._patches.replace(torch.Tensor, "register_hook", noting)

    def stop(self) -> None:
        self._patches.restore()
