"""What torch says of a failing backward in anomaly mode, said as it is without.

Nodes that a backward makes (`create_graph`) are watched through anomaly mode, which the user did
not turn on: its warning must not be seen, nor its hint in the message of an exception.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType

import torch

__all__ = ["AsWithoutAnomaly"]

WARNING = re.compile(r"Error detected in \S+\. (Traceback of forward call|No forward pass info)")
HINT = " Hint: "
ANOMALY_HINT = " Hint: the backtrace further above shows the operation that failed"


class AsWithoutAnomaly:
    """Around a run of the engine while anomaly mode is on for us alone.

    `paused` is a context without anomaly mode.
    """

    def __init__(self, paused: Callable[[], AbstractContextManager[None]]) -> None:
        self._paused = paused
        # Put into the list itself: `filterwarnings` would make Python forget what it has warned of.
        self._filters = warnings.filters
        self._silence = ("ignore", WARNING, UserWarning, None, 0)

    def __enter__(self) -> None:
        self._filters.insert(0, self._silence)  # type: ignore[attr-defined]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(ValueError):  # the script emptied the list meanwhile
            self._filters.remove(self._silence)  # type: ignore[attr-defined]
        if isinstance(error, RuntimeError) and ANOMALY_HINT in str(error):
            with self._paused():
                error.args = (str(error).partition(ANOMALY_HINT)[0] + _hint(),)


def _hint() -> str:
    """The hint of this version of torch without anomaly mode, from an error made on purpose."""
    with torch.enable_grad():
        leaf = torch.zeros(1, device="cpu", requires_grad=True)
        result = leaf.exp()
        result.add_(1)
    start = torch.ones(1, device="cpu")
    try:
        # Not by torch's door, which is ours.
        torch.autograd.Variable._execution_engine.run_backward(
            (result,), (start,), False, False, (leaf,), True, False
        )
    except RuntimeError as error:
        return HINT + str(error).partition(HINT)[2]
    return ""
