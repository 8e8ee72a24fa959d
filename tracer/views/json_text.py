"""The JSON that commands print: indented, and JSON to the letter."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["json_text"]


def json_text(document: Any) -> str:
    """The document as JSON, without a newline at its end.

    JSON (RFC 8259) has no infinity and no NaN: such a number is null.
    """
    return json.dumps(_finite(document), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
