"""Runs a script on virtual GPUs, unrecorded: `python on_gpus.py N SCRIPT [ARGUMENT ...]`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tracer  # from this checkout, not installed


def main() -> None:
    count, sys.argv[:] = int(sys.argv[1]), sys.argv[2:]
    sys.path[:2] = [str(Path(sys.argv[0]).resolve().parent)]
    with tracer.virtual_gpus(count):
        runpy.run_path(sys.argv[0], run_name="__main__")


main()
