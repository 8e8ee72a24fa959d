"""What every test shares."""

from __future__ import annotations

import os

import pytest

# Before torch is imported anywhere: results depend on the number of threads, and so does speed.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write golden files (pictures, generated documentation) anew: look at them then",
    )
