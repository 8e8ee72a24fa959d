"""Virtual CUDA devices: a machine without GPUs runs CUDA scripts, with real values."""

from __future__ import annotations

from tracer.devices.gpus import VirtualGpus, virtual_gpus

__all__ = ["VirtualGpus", "virtual_gpus"]
