"""The JSON that commands print: indented, and JSON to the letter."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

from tracer.analysis.exact import said
from tracer.semantics.effects import Exact

__all__ = ["exact_document", "json_text"]


def json_text(document: Any) -> str:
    """The document as JSON, without a newline at its end.

    JSON (RFC 8259) has no infinity and no NaN: such a number is null.
    """
    return json.dumps(_finite(document), indent=2, allow_nan=False)


def exact_document(value: Exact | None) -> dict[str, Any] | None:
    """A factor as a number and as text; `is_exact` tells a fraction from a measured number."""
    if value is None:
        return None
    return {"value": float(value), "text": said(value), "is_exact": isinstance(value, Fraction)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
