"""`torch.compile` on virtual GPUs: the code runs eagerly, and the script is told so once."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from tracer.devices.attributes import Attributes

__all__ = ["install"]


def _eager(model: Any = None, **options: Any) -> Any:
    """What was to be compiled, as it is; as a decorator with options, one that does nothing."""
    if model is None:
        return lambda function: _eager(function, **options)
    warnings.warn(
        "torch.compile: on virtual GPUs this part runs eagerly, as the compiler would look for "
        "real ones",
        stacklevel=2,
    )
    return model


def install(attributes: Attributes) -> None:
    attributes.put(torch, "compile", _eager)
