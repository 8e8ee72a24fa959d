"""What every test shares."""

from __future__ import annotations

import os

# Before torch is imported anywhere: results depend on the number of threads, and so does speed.
os.environ["OMP_NUM_THREADS"] = "1"
