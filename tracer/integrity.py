"""What is wrong with a trace file that could not be read to the end.

Reading trusts a file, as checking every number first would take longer than reading. When it
fails all the same, this looks at everything: SQLite's own pages, what type each cell has, what each
number points to, and what the texts in JSON hold. A file that was cut, flipped or edited is told
so; only a sound one may show a fault of ours.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tracer.errors import TraceUnreadable
from tracer.events import ROW_WIDTH, SMALL
from tracer.runfiles import files_named
from tracer.tracefile import CHECKSUM, SCHEMA, checksum, is_trace

__all__ = ["damage_among", "damage_of"]

TYPES = {
    "INTEGER": ("integer",), "TEXT": ("text",), "REAL": ("real", "integer"), "BLOB": ("blob",),
}  # fmt: skip

REFERENCES = (
    ("nodes.structure", "structures.id"), ("edges.structure", "structures.id"),
    ("nodes.source", "sources.id"), ("nodes.module", "modules.id"), ("nodes.buffer", "buffers.id"),
    ("buffers.module", "modules.id"), ("layouts.structure", "structures.id"),
    ("contributions.form", "forms.id"), ("receipts.form", "forms.id"), ("roots.form", "forms.id"),
    ("captures.form", "forms.id"), ("readings.form", "forms.id"),
    ("readings.buffer", "buffers.id"), ("calls.layout", "layouts.id"),
    ("calls.source", "sources.id"), ("steps.layout", "layouts.id"),
    ("steps.source", "sources.id"), ("resets.source", "sources.id"),
    ("edits.layout", "layouts.id"), ("edits.source", "sources.id"), ("pieces.form", "forms.id"),
    ("exchanges.layout", "layouts.id"), ("exchanges.source", "sources.id"),
    ("exchanges.wrapper", "wrappers.id"), ("exchanges.process_group", "groups.id"),
    ("uses.wrapper", "wrappers.id"), ("uses.source", "sources.id"),
    ("wrappers.module", "modules.id"), ("wrappers.process_group", "groups.id"),
)  # fmt: skip
"""Numbers and what they count in: a number that is there must be there too."""

NUMBERED = (
    ("layout_rows", "layout", "row"), ("nodes", "structure", "node"),
    ("edges", "structure", "edge"),
)  # fmt: skip
"""Tables whose rows are counted from 0 inside something: none may be missing."""

IN_LAYOUT = (
    ("contributions", "edge", "edges"), ("receipts", "node", "nodes"), ("roots", "node", "nodes"),
    ("captures", "node", "nodes"), ("states", "node", "nodes"),
)  # fmt: skip
"""Facts of a layout that name a node or an edge of its structure."""

ROWS = (
    ("contributions", "row"), ("receipts", "row"), ("roots", "gradient"), ("roots", "value"),
    ("captures", "row"), ("readings", "row"), ("pieces", "row"),
)  # fmt: skip
"""Facts of a layout that name a row of its measurements."""

EARLIER = (("sources", "caller", "id"), ("calls", "nested_in", "ord"))
"""What points back only: a circle of callers has no end."""

ORDINALS = (
    ("sources", "id"), ("modules", "id"), ("buffers", "id"), ("forms", "id"), ("structures", "id"),
    ("layouts", "id"), ("groups", "id"), ("wrappers", "id"), ("edges", "output"),
    ("edges", "input"),
)  # fmt: skip

Shape = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def are_sizes(value: Any) -> bool:
    """A shape; -1 is a ragged dimension."""
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and -1 <= n < 2**48 for n in value
    )


def are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def are_groups(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(group, dict)
        and are_numbers(group.get("buffers", []))
        and are_numbers(group.get("frozen", []))
        for group in value
    )


def is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def is_list(value: Any) -> bool:
    return isinstance(value, list)


TEXTS: tuple[tuple[str, str, Shape], ...] = (
    ("sources", "within", are_texts), ("sources", "assigned", are_texts),
    ("buffers", "shape", are_sizes), ("buffers", "parts", is_list),
    ("buffers", "placements", is_list), ("forms", "shape", are_sizes), ("states", "saved", is_dict),
    ("states", "numbers", are_texts), ("steps", "groups", are_groups),
    ("resets", "buffers", are_numbers), ("edits", "details", is_dict),
    ("calls", "again", is_list), ("groups", "ranks", are_numbers),
    ("wrappers", "buckets", is_list), ("wrappers", "details", is_dict),
)  # fmt: skip
"""Columns of JSON and what they must hold."""

FIELDS: dict[str, tuple[type, ...]] = {
    "command": (list,), "cwd": (str,), "script": (str,), "versions": (dict,), "options": (dict,),
    "rank": (int,), "world": (int,), "pid": (int,), "started": (int, float), "status": (str,),
    "failure": (str,), "siblings": (list,),
}  # fmt: skip
"""Types of what is known of the run."""


def damage_among(words: Iterable[str]) -> TraceUnreadable | None:
    """What to say of the first damaged trace that these words name: a file, a folder, a pattern."""
    for path in (path for word in words for path in _named(word)):
        try:
            damage = damage_of(path) if path.is_file() and is_trace(path) else ""
        except OSError:  # it cannot be read
            continue
        if damage:
            return TraceUnreadable(
                "damaged-trace",
                f"{path} is damaged ({damage}): copy it again from where it was recorded, or "
                "record it again",
            )
    return None


def _named(word: str) -> list[Path]:
    """The files that a word names, of a job those of all ranks; none where it is no path."""
    try:
        return files_named(word)
    except (OSError, ValueError):
        return []


def damage_of(path: Path) -> str:
    """The first thing that is wrong with a trace file, "" if it is sound."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            found = str(next(db.execute("PRAGMA quick_check(1)"))[0])
            return next(_wrong(db), "") if found == "ok" else found
        except (sqlite3.Error, OverflowError, RecursionError, MemoryError) as error:
            return str(error) or type(error).__name__


def _wrong(db: sqlite3.Connection) -> Iterator[str]:
    yield from _wrong_schema(db)
    yield from _wrong_types(db)
    yield from _wrong_numbers(db)
    yield from _wrong_references(db)
    yield from _wrong_texts(db)
    yield from _wrong_run(db)
    yield from _wrong_blobs(db)
    yield from _changed(db)


def _changed(db: sqlite3.Connection) -> Iterator[str]:
    """Numbers that could all be true, but are not those that were written."""
    query = f"SELECT value FROM run WHERE field = '{CHECKSUM}'"
    for (written,) in db.execute(query):
        if _parsed(written) != checksum(db):
            yield "its contents are not those that were written: their checksum differs"


def _wrong_schema(db: sqlite3.Connection) -> Iterator[str]:
    with closing(sqlite3.connect(":memory:")) as sound:
        sound.executescript(SCHEMA)
        for name, columns in _tables(sound).items():
            if _tables(db).get(name) != columns:
                yield f"its table {name} is not as it was written"


def _tables(db: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: list(db.execute(f"PRAGMA table_info({name})")) for name in names}


def _wrong_types(db: sqlite3.Connection) -> Iterator[str]:
    for table, columns in _tables(db).items():
        for _, column, declared, *_ in columns:
            known = ", ".join(f"'{kind}'" for kind in (*TYPES[declared], "null"))
            where = f"typeof({column}) NOT IN ({known})"
            yield from _first(db, table, where, f"a {column} that is no {declared.lower()}")
            if declared == "TEXT":
                bad = f"instr({column}, char(0))"
                yield from _first(db, table, bad, f"a {column} with a zero byte in it")


def _wrong_numbers(db: sqlite3.Connection) -> Iterator[str]:
    for table, column in ORDINALS:
        yield from _first(db, table, f"{column} < 0", f"a negative {column}")
    for table, column, own in EARLIER:
        yield from _first(db, table, f"{column} >= {own}", f"a {column} after itself")
    yield from _first(
        db, "layout_rows", "elements NOT BETWEEN 0 AND 1 << 48", "a size beyond sense"
    )
    for table, inside, column in NUMBERED:
        query = (
            f"SELECT {inside} FROM {table} GROUP BY {inside} "
            f"HAVING min({column}) <> 0 OR max({column}) <> count(*) - 1 LIMIT 1"
        )
        yield from (f"{table} of {inside} {row[0]} are missing" for row in db.execute(query))
    for count, table in (("nodes", "nodes"), ("edges", "edges")):
        query = (
            f"SELECT id FROM structures s WHERE {count} <> "
            f"(SELECT count(*) FROM {table} WHERE structure = s.id) LIMIT 1"
        )
        yield from (f"{table} of structure {row[0]} are missing" for row in db.execute(query))


def _wrong_references(db: sqlite3.Connection) -> Iterator[str]:
    for pointing, pointed in REFERENCES:
        (table, column), (other, key) = pointing.split("."), pointed.split(".")
        where = f"{column} NOT NULL AND {column} NOT IN (SELECT {key} FROM {other})"
        yield from _first(db, table, where, f"a {column} that is not in {other}")
    for end in ("sender", "receiver"):
        where = (
            f"NOT EXISTS (SELECT 1 FROM nodes n WHERE n.structure = edges.structure "
            f"AND n.node = edges.{end})"
        )
        yield from _first(db, "edges", where, f"a {end} that is no node")
    for table, column, other in IN_LAYOUT:
        singular = other[:-1]
        where = (
            f"NOT EXISTS (SELECT 1 FROM layouts l JOIN {other} o ON o.structure = l.structure "
            f"WHERE l.id = {table}.layout AND o.{singular} = {table}.{column})"
        )
        yield from _first(db, table, where, f"a {column} that its structure has not")
    for table, column in ROWS:
        where = (
            f"{column} NOT NULL AND NOT EXISTS (SELECT 1 FROM layout_rows r "
            f"WHERE r.layout = {table}.layout AND r.row = {table}.{column})"
        )
        yield from _first(db, table, where, f"a {column} that was not measured")
    where = "layout NOT IN (SELECT id FROM layouts WHERE structure NOT NULL)"
    yield from _first(db, "calls", where, "a layout without a graph")


def _first(db: sqlite3.Connection, table: str, where: str, what: str) -> Iterator[str]:
    if next(db.execute(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1"), None):
        yield f"its table {table} has {what}"


def _wrong_texts(db: sqlite3.Connection) -> Iterator[str]:
    for table, column, is_right in TEXTS:
        for (text,) in db.execute(f"SELECT DISTINCT {column} FROM {table}"):
            if not is_right(_parsed(text)):
                yield f"its table {table} has a {column} that is not as it was written"


def _wrong_run(db: sqlite3.Connection) -> Iterator[str]:
    fields = {name: _parsed(text) for name, text in db.execute("SELECT field, value FROM run")}
    for name, kinds in FIELDS.items():
        if not isinstance(fields.get(name), kinds):
            yield f"the {name} of its run is not as it was written"
    if not are_texts(fields.get("command")):
        yield "the command of its run is not as it was written"


def _parsed(text: str) -> Any:
    """The JSON of a text, and something that fits nowhere if there is none in it."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return object()


def _wrong_blobs(db: sqlite3.Connection) -> Iterator[str]:
    sizes = {layout: (rows, values) for layout, rows, values in db.execute(SIZES)}
    for table in ("calls", "steps", "edits", "exchanges"):
        query = f"SELECT ord, layout, length(measurements), length(vals) FROM {table}"
        for order, layout, *lengths in db.execute(query):
            rows, values = sizes.get(layout, (0, 0))
            if lengths != [4 * ROW_WIDTH * rows, values]:
                yield f"the measurements of event {order} are incomplete"
    query = (
        "SELECT ord FROM calls c WHERE length(scalars) <> 8 * "
        "(SELECT ifnull(sum(json_array_length(numbers)), 0) FROM states WHERE layout = c.layout)"
    )
    yield from (f"the numbers of call {row[0]} are incomplete" for row in db.execute(query))


SIZES = f"""
    SELECT l.id, count(r.row), ifnull(sum(CASE WHEN r.elements <= {SMALL}
        THEN r.elements * (4 << (r.is_double <> 0)) << (r.is_complex <> 0) ELSE 0 END), 0)
    FROM layouts l LEFT JOIN layout_rows r ON r.layout = l.id GROUP BY l.id
"""
"""For each layout how many rows are measured, and how many bytes the values of small ones take."""
