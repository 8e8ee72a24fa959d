"""How wide an edge is drawn: the logarithm of its norm, among those of the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import networkx as nx

__all__ = ["edge_width", "norm_range"]

THINNEST = 0.9
WIDEST = 5.5
DECADES = 5
"""Norms that are more than so many powers of ten below the largest look alike."""


def norm_range(graph: nx.MultiDiGraph) -> tuple[float, float] | None:
    """The logarithms of the smallest and largest norm that are told apart by width."""
    norms = [d["norm"] for _, _, d in graph.edges(data=True) if d["norm"] and d["norm"] > 0]
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        return None
    top = math.log10(max(finite))
    return max(math.log10(min(finite)), top - DECADES), top


def edge_width(data: Mapping[str, Any], norms: tuple[float, float] | None) -> float:
    """The width in pixels: the largest norm is widest."""
    norm = data["norm"]
    if norms is None or not norm or not math.isfinite(norm):
        return THINNEST
    low, high = norms
    if high - low < 1e-9:
        return (THINNEST + WIDEST) / 3
    part = max(0.0, (math.log10(norm) - low) / max(high - low, 1.0))
    return THINNEST + part * (WIDEST - THINNEST)
