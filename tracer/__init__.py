"""gradtrace: every gradient contribution of a PyTorch training script, and where it was summed.

with tracer.Recorder("run.trace"):      # needs torch
    train()

trace = tracer.load("run.trace")        # needs no torch
graph = tracer.build(trace)             # a networkx.MultiDiGraph
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.version import __version__

if TYPE_CHECKING:
    from tracer.devices import virtual_gpus
    from tracer.record.recorder import Recorder
    from tracer.tracefile import load
    from tracer.views.notebook import build

__all__ = ["Recorder", "__version__", "build", "load", "virtual_gpus"]

_HOMES = {
    "Recorder": "tracer.record.recorder",
    "build": "tracer.views.notebook",
    "load": "tracer.tracefile",
    "virtual_gpus": "tracer.devices",
}


def __getattr__(name: str) -> Any:
    # Torch and networkx are loaded by what needs them: reading a trace works without torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
