"""The defaults that a script carries in its head: a `[tool.tracer]` table, as in PEP 723."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from tracer.errors import WrongUse

__all__ = ["table_of"]

BLOCK = re.compile(
    r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
)  # verbatim from PEP 723


def table_of(script: str, name: str) -> dict[str, Any]:
    """The `[tool.tracer]` table in the text of a script, {} if it has none.

    Raises:
        WrongUse: two blocks, a block that is not TOML, or a `tool.tracer` that is no table.
    """
    blocks = [m for m in BLOCK.finditer(script.replace("\r\n", "\n")) if m["type"] == "script"]
    if not blocks:
        return {}
    if len(blocks) > 1:
        raise WrongUse(
            "wrong-use",
            f"{name}: found {len(blocks)} `# /// script` blocks, expected one: join them",
        )
    lines = blocks[0]["content"].splitlines()
    try:
        document = tomllib.loads("\n".join(line[2:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise WrongUse(
            "wrong-use",
            f"{name}: its `# /// script` block is not TOML ({error}): mend it or take it out",
        ) from error
    tool = document.get("tool", {})
    table = tool.get("tracer", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise WrongUse(
            "wrong-use", f"{name}: tool.tracer is {table!r}, expected a table of options"
        )
    return table
