"""The trace file: one SQLite database per process, its schema, its writer and its reader.

It can be read with `sqlite3` alone: what is stored once lies in rows, what is measured anew in
every backward call lies in one blob per call, addressed by rows of `layouts`. Reading executes
nothing: text is JSON, blobs are plain little-endian float32 and float64.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import math
import os
import re
import sqlite3
import struct
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from itertools import accumulate, starmap
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, overload

from tracer.columns import Columns
from tracer.errors import TraceUnreadable, TraceUnwritable
from tracer.events import (
    ROW_WIDTH,
    SMALL,
    Buffer,
    Call,
    Capture,
    Contribution,
    Edge,
    Edit,
    Event,
    Exchange,
    Form,
    Group,
    Layout,
    Measurement,
    Module,
    Node,
    NodeState,
    Part,
    Piece,
    Reading,
    Receipt,
    Reset,
    Root,
    RunInfo,
    Source,
    Step,
    Structure,
    Use,
    Wrapper,
)

if sys.platform != "win32":
    import fcntl

__all__ = [
    "NONFINITE",
    "NORM",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SUM",
    "Measured",
    "Trace",
    "TraceWriter",
    "checksum",
    "is_trace",
    "load",
]

SCHEMA_VERSION = 2
APPLICATION_ID = 0x47524144  # "GRAD"
MAGIC = b"SQLite format 3\x00"
LOGS = ("-wal", "-shm")
"""What lies beside a trace until its run has ended, by the end of its name."""

SCHEMA = """
-- What the process was: one row per field of RunInfo, its value as JSON; and, once it has ended,
-- the checksum of all the other rows of the file.
CREATE TABLE run (field TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Lines of code; caller is the line that called it, outward to the script; text is the line itself,
-- within the first lines of the loops and conditions around it, outermost first, and assigned the
-- lines that gave its variables their values (JSON).
CREATE TABLE sources (id INTEGER PRIMARY KEY, file TEXT NOT NULL, line INTEGER NOT NULL,
                      function TEXT NOT NULL, caller INTEGER REFERENCES sources,
                      text TEXT NOT NULL, within TEXT NOT NULL,
                      assigned TEXT NOT NULL);

-- Modules that were called, by their path inside the outermost module around them.
CREATE TABLE modules (id INTEGER PRIMARY KEY, root INTEGER NOT NULL, path TEXT NOT NULL,
                      kind TEXT NOT NULL, variable TEXT NOT NULL, replica INTEGER,
                      devices INTEGER);

-- Leaf tensors whose .grad is written. shape, parts (what a rank holds of sharded parameters) and
-- placements (of a DTensor) are JSON.
CREATE TABLE buffers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, shape TEXT NOT NULL,
                      dtype TEXT NOT NULL, device TEXT NOT NULL, module INTEGER,
                      is_parameter INTEGER NOT NULL, parts TEXT NOT NULL,
                      placements TEXT NOT NULL);

-- Process groups, and what exchanges gradients over them: ranks, buckets and details are JSON.
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL, ranks TEXT NOT NULL,
                     backend TEXT NOT NULL, dimension TEXT NOT NULL);
CREATE TABLE wrappers (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, module INTEGER,
                       process_group INTEGER, buckets TEXT NOT NULL, details TEXT NOT NULL);

-- Shapes, dtypes and devices of gradients.
CREATE TABLE forms (id INTEGER PRIMARY KEY, shape TEXT NOT NULL, dtype TEXT NOT NULL,
                    device TEXT NOT NULL);

-- Graphs: one that repeats is stored once.
CREATE TABLE structures (id INTEGER PRIMARY KEY, nodes INTEGER NOT NULL, edges INTEGER NOT NULL);
CREATE TABLE nodes (structure INTEGER, node INTEGER, name TEXT NOT NULL, source INTEGER,
                    module INTEGER, called TEXT NOT NULL, custom TEXT NOT NULL, buffer INTEGER,
                    PRIMARY KEY (structure, node)) WITHOUT ROWID;
CREATE TABLE edges (structure INTEGER, edge INTEGER, sender INTEGER, output INTEGER,
                    receiver INTEGER, input INTEGER,
                    PRIMARY KEY (structure, edge)) WITHOUT ROWID;

-- What else repeats between calls: where each measurement lies, and what is plain to read on the
-- nodes. A row number is a position in the event's measurements; NULL means not measured.
CREATE TABLE layouts (id INTEGER PRIMARY KEY, structure INTEGER);
CREATE TABLE layout_rows (layout INTEGER, row INTEGER, elements INTEGER NOT NULL,
                          is_complex INTEGER NOT NULL, is_double INTEGER NOT NULL,
                          PRIMARY KEY (layout, row)) WITHOUT ROWID;
CREATE TABLE states (layout INTEGER, node INTEGER, saved TEXT NOT NULL, numbers TEXT NOT NULL,
                     first INTEGER NOT NULL, hooks_before INTEGER NOT NULL,
                     hooks_after INTEGER NOT NULL, hooks_buffer INTEGER NOT NULL,
                     ran INTEGER NOT NULL, PRIMARY KEY (layout, node)) WITHOUT ROWID;
CREATE TABLE contributions (layout INTEGER, edge INTEGER, form INTEGER NOT NULL, row INTEGER,
                            PRIMARY KEY (layout, edge)) WITHOUT ROWID;
CREATE TABLE receipts (layout INTEGER, node INTEGER, input INTEGER, form INTEGER NOT NULL,
                       row INTEGER, PRIMARY KEY (layout, node, input)) WITHOUT ROWID;
CREATE TABLE roots (layout INTEGER, position INTEGER, node INTEGER NOT NULL,
                    input INTEGER NOT NULL, name TEXT NOT NULL, form INTEGER NOT NULL,
                    gradient INTEGER, value INTEGER, PRIMARY KEY (layout, position)) WITHOUT ROWID;
CREATE TABLE captures (layout INTEGER, position INTEGER, node INTEGER NOT NULL,
                       input INTEGER NOT NULL, form INTEGER, row INTEGER,
                       PRIMARY KEY (layout, position)) WITHOUT ROWID;
CREATE TABLE readings (layout INTEGER, buffer INTEGER, moment TEXT, form INTEGER NOT NULL,
                       row INTEGER, PRIMARY KEY (layout, buffer, moment)) WITHOUT ROWID;
CREATE TABLE pieces (layout INTEGER, piece INTEGER, moment TEXT NOT NULL, tensor INTEGER NOT NULL,
                     at INTEGER NOT NULL, elements INTEGER NOT NULL, form INTEGER NOT NULL,
                     row INTEGER, content TEXT NOT NULL, buffer INTEGER, start INTEGER NOT NULL,
                     run INTEGER NOT NULL, stride INTEGER NOT NULL, found TEXT NOT NULL,
                     peer INTEGER, tracked INTEGER NOT NULL,
                     PRIMARY KEY (layout, piece)) WITHOUT ROWID;

-- The events of the run, one count (ord) over the six tables. measurements: per row of the
-- layout 13 float32: sum (real, imaginary), norm, largest, non-finite, 8 of the fingerprint.
-- vals: the elements of each row with 16 or fewer, float32 or (is_double) float64, complex ones as
-- pairs. scalars: float64, the numbers read on nodes. loader and batch: which DataLoader had given
-- a batch last, and how many. again: JSON, nodes of a retained graph that ran in an earlier call.
CREATE TABLE calls (ord INTEGER PRIMARY KEY, layout INTEGER NOT NULL, entry TEXT NOT NULL,
                    step INTEGER NOT NULL, source INTEGER, thread INTEGER NOT NULL,
                    retain_graph INTEGER NOT NULL, create_graph INTEGER NOT NULL,
                    accumulates INTEGER NOT NULL, inputs INTEGER NOT NULL, nested_in INTEGER,
                    started REAL NOT NULL, seconds REAL NOT NULL, outcome TEXT NOT NULL,
                    measurements BLOB NOT NULL, vals BLOB NOT NULL, scalars BLOB NOT NULL,
                    loader INTEGER, batch INTEGER, again TEXT NOT NULL);
CREATE TABLE steps (ord INTEGER PRIMARY KEY, step INTEGER NOT NULL, layout INTEGER NOT NULL,
                    optimizer INTEGER NOT NULL, kind TEXT NOT NULL, groups TEXT NOT NULL,
                    source INTEGER, started REAL NOT NULL, outcome TEXT NOT NULL,
                    measurements BLOB NOT NULL, vals BLOB NOT NULL);
CREATE TABLE resets (ord INTEGER PRIMARY KEY, step INTEGER NOT NULL, by TEXT NOT NULL,
                     set_to_none INTEGER NOT NULL, buffers TEXT NOT NULL, source INTEGER,
                     started REAL NOT NULL);
CREATE TABLE edits (ord INTEGER PRIMARY KEY, step INTEGER NOT NULL, layout INTEGER NOT NULL,
                    kind TEXT NOT NULL, details TEXT NOT NULL, source INTEGER,
                    started REAL NOT NULL, measurements BLOB NOT NULL, vals BLOB NOT NULL);
CREATE TABLE exchanges (ord INTEGER PRIMARY KEY, step INTEGER NOT NULL, layout INTEGER NOT NULL,
                        kind TEXT NOT NULL, op TEXT NOT NULL, process_group INTEGER NOT NULL,
                        factor REAL, root INTEGER, call INTEGER, node INTEGER, wrapper INTEGER,
                        bucket INTEGER, is_async INTEGER NOT NULL, source INTEGER,
                        started REAL NOT NULL, outcome TEXT NOT NULL, measurements BLOB NOT NULL,
                        vals BLOB NOT NULL);
CREATE TABLE uses (ord INTEGER PRIMARY KEY, step INTEGER NOT NULL, wrapper INTEGER NOT NULL,
                   synchronises INTEGER NOT NULL, divisor REAL, source INTEGER,
                   started REAL NOT NULL);
"""

T = TypeVar("T")

NUMBERS = struct.Struct(f"<{ROW_WIDTH}f")
"""The measurements of one tensor."""

SIZE = struct.Struct("<8xf4xf")
"""Of these the norm, and the count of what is not finite."""

SUM, NORM, NONFINITE = 0, 2, 4
"""The places of some of them."""

Fact = Source | Module | Buffer | Form | Structure | Layout | Group | Wrapper | Event


def _text(value: str) -> str:
    """SQLite text is UTF-8: a lone surrogate (a file name's undecodable byte) is written out."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


_json = json.JSONEncoder(separators=(",", ":")).encode
"""`json.dumps` makes an encoder for each call."""


def _doubles(values: Iterable[float]) -> bytes:
    numbers = array("d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(typecode: str, blob: bytes) -> array[float]:
    numbers: array[float] = array(typecode)
    numbers.frombytes(blob[: len(blob) - len(blob) % numbers.itemsize])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


class TraceWriter:
    """Writes facts to a new trace file; what was committed survives the death of the process.

    Raises:
        TraceUnwritable: the folder is missing or read-only, the path holds something that is not a
            trace, or another process is recording into it.
    """

    def __init__(self, path: str | Path, info: RunInfo) -> None:
        self.path = Path(path)
        self._claim()
        try:
            self._db = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._lay_out(info)
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as error:
            self._release()
            with suppress(OSError):
                for suffix in ("", *LOGS):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            raise TraceUnwritable(
                "unwritable-trace", f"{self.path}: cannot write a trace there: {error}"
            ) from error

    def _lay_out(self, info: RunInfo) -> None:
        # First, into the file itself: a trace whose process was killed is known by its header.
        self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        # WAL with NORMAL: a commit costs microseconds and outlives kill -9.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        self.describe(info)
        self.commit()

    def _claim(self) -> None:
        """Make the file anew and lock it, unless it is somebody else's."""
        self._lock: int | None = None
        try:
            if self.path.exists() and self.path.stat().st_size:
                if not is_trace(self.path):
                    raise TraceUnwritable(
                        "unwritable-trace",
                        f"{self.path} exists and is not a trace: it is left as it is; "
                        "give another name with --output",
                    )
                with open(self.path, "rb+") as existing:
                    self._take_lock(existing.fileno())
                self.path.unlink()
            for suffix in LOGS:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._take_lock(self._lock)
        except OSError as error:
            self._release()
            raise TraceUnwritable(
                "unwritable-trace",
                f"{self.path}: cannot write a trace there: {error.strerror}; "
                "give another place with --output",
            ) from error

    def _take_lock(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TraceUnwritable(
                "unwritable-trace",
                f"{self.path} is being written by another run; give another name with --output",
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def describe(self, info: RunInfo) -> None:
        """Write or replace what is known of the process."""
        self._begin()
        self._db.executemany(
            "INSERT OR REPLACE INTO run VALUES (?, ?)",
            [(name, _json(value)) for name, value in asdict(info).items()],
        )

    def add(self, fact: Fact, is_last: bool = False) -> None:
        """Write one fact; it is safe after the next `commit`, or at once as the last for now."""
        if not is_last:
            self._begin()
        # Alone it is a transaction by itself.
        WRITERS[type(fact)](self._db, fact)
        if is_last:
            self.commit()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    def commit(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def close(self, info: RunInfo) -> None:
        """Write the end of the run and fold the write-ahead log into the one file.

        Raises:
            TraceUnwritable: the disk is full, or the file was taken away.
        """
        try:
            self.describe(info)
            self._db.execute("INSERT INTO run VALUES (?, ?)", (CHECKSUM, _json(checksum(self._db))))
            self.commit()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise TraceUnwritable(
                "unwritable-trace", f"{self.path}: cannot write a trace there: {error}"
            ) from error
        finally:
            with suppress(sqlite3.Error):
                self._db.close()
            self._release()


def _write_source(db: sqlite3.Connection, fact: Source) -> None:
    place = (fact.id, _text(fact.file), fact.line, _text(fact.function), fact.caller)
    row = (*place, _text(fact.text))
    lists = (_text(_json(fact.within)), _text(_json(fact.assigned)))
    db.execute("INSERT INTO sources VALUES (?,?,?,?,?,?,?,?)", (*row, *lists))


def _write_module(db: sqlite3.Connection, fact: Module) -> None:
    texts = (_text(fact.path), _text(fact.kind), _text(fact.variable))
    row = (fact.id, fact.root, *texts, fact.replica, fact.devices)
    db.execute("INSERT INTO modules VALUES (?,?,?,?,?,?,?)", row)


def _write_buffer(db: sqlite3.Connection, fact: Buffer) -> None:
    row = (fact.id, _text(fact.name), _json(fact.shape), fact.dtype, fact.device, fact.module)
    parts = _text(_json([asdict(part) for part in fact.parts]))
    db.execute(
        "INSERT INTO buffers VALUES (?,?,?,?,?,?,?,?,?)",
        (*row, fact.is_parameter, parts, _json(fact.placements)),
    )


def _write_group(db: sqlite3.Connection, fact: Group) -> None:
    texts = (_text(fact.name), _json(fact.ranks), _text(fact.backend), _text(fact.dimension))
    db.execute("INSERT INTO groups VALUES (?,?,?,?,?)", (fact.id, *texts))


def _write_wrapper(db: sqlite3.Connection, fact: Wrapper) -> None:
    row = (fact.id, _text(fact.kind), fact.module, fact.group, _json(fact.buckets))
    db.execute("INSERT INTO wrappers VALUES (?,?,?,?,?,?)", (*row, _text(_json(fact.details))))


def _write_form(db: sqlite3.Connection, fact: Form) -> None:
    row = (fact.id, _json(fact.shape), fact.dtype, fact.device)
    db.execute("INSERT INTO forms VALUES (?,?,?,?)", row)


def _write_structure(db: sqlite3.Connection, fact: Structure) -> None:
    db.execute("INSERT INTO structures VALUES (?,?,?)", (fact.id, len(fact.nodes), len(fact.edges)))
    db.executemany(
        "INSERT INTO nodes VALUES (?,?,?,?,?,?,?,?)",
        (
            (fact.id, n.index, _text(n.name), n.source, n.module, _text(n.called),
             _text(n.custom), n.buffer)
            for n in fact.nodes
        ),
    )  # fmt: skip
    db.executemany(
        "INSERT INTO edges VALUES (?,?,?,?,?,?)",
        (
            (fact.id, number, e.sender, e.output, e.receiver, e.input)
            for number, e in enumerate(fact.edges)
        ),
    )


def _write_layout(db: sqlite3.Connection, fact: Layout) -> None:
    key = fact.id
    db.execute("INSERT INTO layouts VALUES (?,?)", (key, fact.structure))
    db.executemany(
        "INSERT INTO layout_rows VALUES (?,?,?,?,?)",
        ((key, number, *row) for number, row in enumerate(fact.rows)),
    )
    texts: dict[int, str] = {}  # by the id of what is alive in the layout: nodes share most of it

    def text_of(value: object) -> str:
        text = texts.get(id(value))
        if text is None:
            text = texts[id(value)] = _text(_json(value))
        return text

    db.executemany(
        "INSERT INTO states VALUES (?,?,?,?,?,?,?,?,?)",
        (
            (key, s.node, text_of(s.saved), text_of(s.numbers), s.first, *s.hooks, s.ran)
            for s in fact.states
        ),
    )
    db.executemany(
        "INSERT INTO contributions VALUES (?,?,?,?)",
        ((key, c.edge, c.form, c.row) for c in fact.contributions),
    )
    db.executemany(
        "INSERT INTO receipts VALUES (?,?,?,?,?)",
        ((key, r.node, r.input, r.form, r.row) for r in fact.receipts),
    )
    db.executemany(
        "INSERT INTO roots VALUES (?,?,?,?,?,?,?,?)",
        (
            (key, position, r.node, r.input, _text(r.name), r.form, r.gradient, r.value)
            for position, r in enumerate(fact.roots)
        ),
    )
    db.executemany(
        "INSERT INTO captures VALUES (?,?,?,?,?,?)",
        ((key, c.position, c.node, c.input, c.form, c.row) for c in fact.captures),
    )
    db.executemany(
        "INSERT INTO readings VALUES (?,?,?,?,?)",
        ((key, r.buffer, r.moment, r.form, r.row) for r in fact.readings),
    )
    db.executemany(
        "INSERT INTO pieces VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            (
                key, number, p.moment, p.tensor, p.at, p.elements, p.form, p.row, p.content,
                p.buffer, p.start, p.run, p.stride, p.found, p.peer, p.tracked,
            )
            for number, p in enumerate(fact.pieces)
        ),
    )  # fmt: skip


def _write_call(db: sqlite3.Connection, fact: Call) -> None:
    db.execute(
        "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            fact.order, fact.layout, fact.entry, fact.step, fact.source, fact.thread,
            fact.retain_graph, fact.create_graph, fact.accumulates, fact.inputs, fact.nested_in,
            fact.started, fact.seconds, _text(fact.outcome), fact.measurements, fact.values,
            _doubles(fact.scalars), *(fact.batch or (None, None)), _json(fact.again),
        ),
    )  # fmt: skip


def _write_step(db: sqlite3.Connection, fact: Step) -> None:
    db.execute(
        "INSERT INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            fact.order, fact.step, fact.layout, fact.optimizer, _text(fact.kind),
            _groups_text(fact.groups), fact.source, fact.started, _text(fact.outcome),
            fact.measurements, fact.values,
        ),
    )  # fmt: skip


_written_groups: list[tuple[tuple[dict[str, Any], ...], str]] = []
"""The groups of the last optimizers, the very objects, and their text."""


def _groups_text(groups: tuple[dict[str, Any], ...]) -> str:
    for known, text in _written_groups:
        if known is groups:
            return text
    text = _text(_json(groups))
    _written_groups[:] = [(groups, text), *_written_groups[:3]]
    return text


def _write_reset(db: sqlite3.Connection, fact: Reset) -> None:
    row = (fact.order, fact.step, _text(fact.by), fact.set_to_none, _json(fact.buffers))
    db.execute("INSERT INTO resets VALUES (?,?,?,?,?,?,?)", (*row, fact.source, fact.started))


def _write_edit(db: sqlite3.Connection, fact: Edit) -> None:
    row = (fact.order, fact.step, fact.layout, fact.kind, _text(_json(fact.details)), fact.source)
    db.execute(
        "INSERT INTO edits VALUES (?,?,?,?,?,?,?,?,?)",
        (*row, fact.started, fact.measurements, fact.values),
    )


def _write_exchange(db: sqlite3.Connection, fact: Exchange) -> None:
    db.execute(
        "INSERT INTO exchanges VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            fact.order, fact.step, fact.layout, fact.kind, fact.op, fact.group, fact.factor,
            fact.root, fact.call, fact.node, fact.wrapper, fact.bucket, fact.is_async, fact.source,
            fact.started, _text(fact.outcome), fact.measurements, fact.values,
        ),
    )  # fmt: skip


def _write_use(db: sqlite3.Connection, fact: Use) -> None:
    row = (fact.order, fact.step, fact.wrapper, fact.synchronises, fact.divisor, fact.source)
    db.execute("INSERT INTO uses VALUES (?,?,?,?,?,?,?)", (*row, fact.started))


WRITERS: dict[type, Any] = {
    Source: _write_source,
    Module: _write_module,
    Buffer: _write_buffer,
    Form: _write_form,
    Structure: _write_structure,
    Layout: _write_layout,
    Group: _write_group,
    Wrapper: _write_wrapper,
    Call: _write_call,
    Step: _write_step,
    Reset: _write_reset,
    Edit: _write_edit,
    Exchange: _write_exchange,
    Use: _write_use,
}


MEASURED: dict[type, str] = {Call: "calls", Step: "steps", Edit: "edits", Exchange: "exchanges"}
"""The events with measurements, and their tables."""


CHECKSUM = "checksum"


def checksum(db: sqlite3.Connection) -> str:
    """A hash of all that a file holds, but of no checksum in it: it tells a file that was changed.

    It is written once, at the end, and compared only when reading fails.
    """
    found = hashlib.blake2b(digest_size=16)
    factory, db.text_factory = db.text_factory, bytes
    try:
        for name in ROW_QUERIES:
            cursor = db.execute(ROW_QUERIES[name])
            while rows := cursor.fetchmany(1000):
                # Version 2 has no references, which would tell of objects and not of values.
                found.update(marshal.dumps((name, rows), 2))
    finally:
        db.text_factory = factory
    return found.hexdigest()


ROW_QUERIES = {
    name: f"SELECT * FROM {name}"
    + (f" WHERE field <> '{CHECKSUM}' ORDER BY field" if name == "run" else "")
    for name in re.findall(r"CREATE TABLE (\w+)", SCHEMA)
}
"""All rows of each table, in the order of its key, in which SQLite stores them."""


def is_trace(path: Path) -> bool:
    """Whether the file's SQLite header carries our application id (bytes 68 to 71)."""
    with open(path, "rb") as file:
        header = file.read(72)
    return header[:16] == MAGIC and struct.unpack(">I", header[68:72])[0] == APPLICATION_ID


def _finish_interrupted(path: Path) -> None:
    """Undo the half of a last write that a process left which was killed while it closed the file.

    SQLite does so itself as soon as someone opens the file who may write to it.
    """
    if not path.with_name(f"{path.name}-journal").exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version").fetchone()


def load(path: str | Path) -> Trace:
    """Open a trace file for reading.

    Raises:
        TraceUnreadable: with slug missing-file, not-a-trace, other-schema or damaged-trace.
    """
    return Trace(path)


class Trace:
    """A trace file, read on demand: the small tables at once, the large ones when asked for.

    Everything returned is a dataclass of `tracer.events`. Use as a context manager, or `close`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._check_file()
        _finish_interrupted(self.path)
        try:
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        version = self._one("PRAGMA user_version")
        if version != SCHEMA_VERSION:
            raise TraceUnreadable(
                "other-schema",
                f"{self.path} follows trace schema {version}, this program reads schema "
                f"{SCHEMA_VERSION}: read it with the version that wrote it, or record it again",
            )
        self.info  # noqa: B018 - a trace without its run is damaged: better said now

    def _check_file(self) -> None:
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise TraceUnreadable(
                "missing-file",
                f"{self.path} {what}: expected a .trace file; `gradtrace trace SCRIPT` makes one",
            )
        try:
            with open(self.path, "rb") as file:
                header = file.read(100)
        except OSError as error:
            raise TraceUnreadable(
                "missing-file", f"{self.path}: cannot be read: {error.strerror}"
            ) from error
        size = self.path.stat().st_size
        if header[:16] != MAGIC[: len(header[:16])] or not header:
            raise TraceUnreadable(
                "not-a-trace",
                f"{self.path} is not a trace (it does not begin like one): expected a file that "
                "`gradtrace trace` wrote",
            )
        if len(header) < 100:
            raise self._damaged(f"it ends after {size} bytes, inside its header")
        if not is_trace(self.path):
            raise TraceUnreadable(
                "not-a-trace",
                f"{self.path} is an SQLite file of another program: expected a file that "
                "`gradtrace trace` wrote",
            )
        page_size = int.from_bytes(header[16:18], "big")
        expected = (65536 if page_size == 1 else page_size) * int.from_bytes(header[28:32], "big")
        # With a write-ahead log beside it the header may be ahead of the file: SQLite knows.
        if size < expected and not Path(f"{self.path}-wal").exists():
            raise self._damaged(f"it has {size} bytes where its header says {expected}")

    def _damaged(self, why: object) -> TraceUnreadable:
        return TraceUnreadable(
            "damaged-trace",
            f"{self.path} is damaged ({why}): copy it again from where it was recorded, or record "
            "it again",
        )

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _rows(self, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        try:
            # No `yield from`: a reader that stops half way would close the cursor, and complain
            # where the file was closed before.
            for row in self._db.execute(query, parameters):  # noqa: UP028
                yield row
        except sqlite3.ProgrammingError:
            raise
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _one(self, query: str, *parameters: object) -> Any:
        return next(self._rows(query, *parameters), (None,))[0]

    def _made(self, make: Callable[..., T], query: str, *parameters: object) -> tuple[T, ...]:
        """What is made of each row: of a million, half the time that one by one takes."""
        try:
            return tuple(starmap(make, self._db.execute(query, parameters)))
        except sqlite3.ProgrammingError:
            raise
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"unreadable JSON: {error}") from error

    def _shape(self, text: str) -> tuple[int, ...]:
        return tuple(self._json(text))

    @cached_property
    def info(self) -> RunInfo:
        fields = {name: self._json(value) for name, value in self._rows("SELECT * FROM run")}
        fields.pop(CHECKSUM, None)
        try:
            fields["command"] = tuple(fields["command"])
            fields["siblings"] = tuple(fields["siblings"])
            return RunInfo(**fields)
        except (TypeError, KeyError) as error:
            raise self._damaged(f"its run is not described: {error}") from error

    @cached_property
    def sources(self) -> dict[int, Source]:
        rows = self._rows(
            "SELECT id, file, line, function, caller, text, within, assigned FROM sources"
        )
        return {
            id: Source(
                id, file, line, function, caller, text,
                tuple(self._json(within)), tuple(self._json(assigned)),
            )
            for id, file, line, function, caller, text, within, assigned in rows
        }  # fmt: skip

    @cached_property
    def modules(self) -> dict[int, Module]:
        rows = self._rows("SELECT id, root, path, kind, variable, replica, devices FROM modules")
        return {row[0]: Module(*row) for row in rows}

    @cached_property
    def buffers(self) -> dict[int, Buffer]:
        rows = self._rows(
            "SELECT id, name, shape, dtype, device, module, is_parameter, parts, placements "
            "FROM buffers"
        )
        return {
            id: Buffer(
                id, name, self._shape(shape), dtype, device, module, bool(is_parameter),
                tuple(self._part(part) for part in self._json(parts)),
                tuple((group, placed) for group, placed in self._json(placements)),
            )
            for id, name, shape, dtype, device, module, is_parameter, parts, placements in rows
        }  # fmt: skip

    def _part(self, fields: dict[str, Any]) -> Part:
        try:
            return Part(**{**fields, "shape": tuple(fields["shape"])})
        except (TypeError, KeyError) as error:
            raise self._damaged(f"a part of a buffer is not described: {error}") from error

    @cached_property
    def groups(self) -> dict[int, Group]:
        rows = self._rows("SELECT id, name, ranks, backend, dimension FROM groups")
        return {id: Group(id, name, self._shape(ranks), *rest) for id, name, ranks, *rest in rows}

    @cached_property
    def wrappers(self) -> dict[int, Wrapper]:
        rows = self._rows("SELECT id, kind, module, process_group, buckets, details FROM wrappers")
        return {
            id: Wrapper(
                id, kind, module, group, tuple(tuple(bucket) for bucket in self._json(buckets)),
                self._json(details),
            )
            for id, kind, module, group, buckets, details in rows
        }  # fmt: skip

    @cached_property
    def forms(self) -> dict[int, Form]:
        rows = self._rows("SELECT id, shape, dtype, device FROM forms")
        return {id: Form(id, self._shape(shape), *rest) for id, shape, *rest in rows}

    @lru_cache(maxsize=64)  # noqa: B019 - a Trace lives as long as its readings
    def structure(self, id: int) -> Structure:
        if self._columns.has(id):
            return self._columns.structure(id)
        nodes = self._made(
            _node,
            "SELECT node, name, source, module, called, custom, buffer FROM nodes "
            "WHERE structure = ? ORDER BY node", id,
        )  # fmt: skip
        edges = self._made(
            Edge,
            "SELECT sender, output, receiver, input FROM edges WHERE structure = ? ORDER BY edge",
            id,
        )
        return Structure(id, nodes, edges)

    @lru_cache(maxsize=64)  # noqa: B019
    def layout(self, id: int) -> Layout:
        structure = self._one("SELECT structure FROM layouts WHERE id = ?", id)
        found = Layout(
            id,
            structure,
            roots=self._facts(
                Root, "roots", "node, input, name, form, gradient, value", id, order="position"
            ),
            captures=self._facts(Capture, "captures", "position, node, input, form, row", id),
            readings=self._facts(Reading, "readings", "buffer, moment, form, row", id),
            pieces=self._facts(
                _piece, "pieces",
                "moment, tensor, at, elements, form, row, content, buffer, start, run, stride, "
                "found, peer, tracked",
                id, order="piece",
            ),
        )  # fmt: skip
        if structure is not None and self._columns.has(structure):
            return replace(
                found,
                rows=self._columns.rows(id) or self._layout_rows(id),
                states=self._columns.states(id),
                contributions=self._columns.contributions(id),
                receipts=self._columns.receipts(id),
            )
        return replace(
            found,
            rows=self._layout_rows(id),
            states=self._states(id),
            contributions=self._facts(Contribution, "contributions", "edge, form, row", id),
            receipts=self._facts(Receipt, "receipts", "node, input, form, row", id),
        )

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self._rows, self._damaged, self._json)

    def _layout_rows(self, layout: int) -> tuple[tuple[int, bool, bool], ...]:
        same: dict[tuple[int, bool, bool], tuple[int, bool, bool]] = {}

        def row(elements: int, is_complex: int, is_double: int) -> tuple[int, bool, bool]:
            found = (elements, bool(is_complex), bool(is_double))
            return same.setdefault(found, found)

        return self._facts(row, "layout_rows", "elements, is_complex, is_double", layout, "row")

    def _states(self, layout: int) -> tuple[NodeState, ...]:
        """Nodes that say the same share the very dict, and the tuples, that say it."""
        saved: dict[str, dict[str, Any]] = {}
        numbers: dict[str, tuple[str, ...]] = {}
        hooks: dict[tuple[int, int, int], tuple[int, int, int]] = {}

        def state(
            node: int, said: str, names: str, first: int, before: int, after: int, buffer: int,
            ran: int,
        ) -> NodeState:  # fmt: skip
            if said not in saved:
                saved[said] = self._json(said)
            if names not in numbers:
                numbers[names] = tuple(self._json(names))
            counts = (before, after, buffer)
            return NodeState(
                node, saved[said], numbers[names], first, hooks.setdefault(counts, counts),
                bool(ran),
            )  # fmt: skip

        columns = "node, saved, numbers, first, hooks_before, hooks_after, hooks_buffer, ran"
        return self._facts(state, "states", columns, layout, order="node")

    def _facts(
        self, make: Callable[..., T], table: str, columns: str, layout: int, order: str = ""
    ) -> tuple[T, ...]:
        sorting = f" ORDER BY {order}" if order else ""
        return self._made(make, f"SELECT {columns} FROM {table} WHERE layout = ?{sorting}", layout)

    @cached_property
    def sizes(self) -> dict[int, LayoutSize]:
        """How large each layout of a call is, counted without reading it."""
        contributions = self._counts("SELECT layout, count(*) FROM contributions")
        scalars = self._counts("SELECT layout, sum(json_array_length(numbers)) FROM states")
        measured: dict[int, int] = defaultdict(int)
        for layout, rows, *row in self._rows(
            "SELECT layout, count(*), elements, is_complex, is_double FROM layout_rows "
            "GROUP BY layout, elements, is_complex, is_double"
        ):
            elements, is_complex, is_double = row
            values = _bytes_of_values((elements, bool(is_complex), bool(is_double)))
            measured[layout] += rows * (NUMBERS.size + values)
        return {
            layout: LayoutSize(
                structure, nodes, contributions.get(layout, 0),
                measured[layout] + 8 * scalars.get(layout, 0),
            )
            for layout, structure, nodes in self._rows(
                "SELECT l.id, s.id, s.nodes FROM layouts l JOIN structures s ON s.id = l.structure"
            )
        }  # fmt: skip

    def _counts(self, query: str) -> dict[int, int]:
        """A number for each layout."""
        return {row[0]: row[1] for row in self._rows(f"{query} GROUP BY layout")}

    @cached_property
    def calls(self) -> list[Call]:
        """Every backward call, in order, without its blobs (see `measurements`)."""
        rows = self._rows(
            "SELECT ord, layout, entry, step, source, thread, retain_graph, create_graph, "
            "accumulates, inputs, nested_in, started, seconds, outcome, loader, batch, again "
            "FROM calls ORDER BY ord"
        )
        return [self._call(*row) for row in rows]

    def _call(self, *row: Any) -> Call:
        *fields, loader, batch, again = row
        known = Call(*fields[:6], *map(bool, fields[6:9]), *fields[9:])
        return replace(
            known,
            batch=None if loader is None else (loader, batch),
            again=tuple((node, order) for node, order in self._json(again)),
        )

    @cached_property
    def steps(self) -> list[Step]:
        """Every recorded optimizer step, in order, without its blobs."""
        rows = self._rows(
            "SELECT ord, step, layout, optimizer, kind, groups, source, started, outcome "
            "FROM steps ORDER BY ord"
        )
        return [
            Step(order, step, layout, optimizer, kind, tuple(self._json(groups)), *rest)
            for order, step, layout, optimizer, kind, groups, *rest in rows
        ]

    @cached_property
    def resets(self) -> list[Reset]:
        rows = self._rows(
            "SELECT ord, step, by, set_to_none, buffers, source, started FROM resets ORDER BY ord"
        )
        return [
            Reset(order, step, by, bool(set_to_none), tuple(self._json(buffers)), *rest)
            for order, step, by, set_to_none, buffers, *rest in rows
        ]

    @cached_property
    def edits(self) -> list[Edit]:
        """Every clip, unscale and decision of a GradScaler, in order, without its blobs."""
        rows = self._rows(
            "SELECT ord, step, layout, kind, details, source, started FROM edits ORDER BY ord"
        )
        return [
            Edit(order, step, layout, kind, self._json(details), *rest)
            for order, step, layout, kind, details, *rest in rows
        ]

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """Every operation of `torch.distributed`, in the order they began, without its blobs."""
        rows = self._rows(
            "SELECT ord, step, layout, kind, op, process_group, factor, root, call, node, wrapper, "
            "bucket, is_async, source, started, outcome FROM exchanges ORDER BY ord"
        )
        return [Exchange(*r[:12], *map(bool, r[12:13]), *r[13:]) for r in rows]

    @cached_property
    def uses(self) -> list[Use]:
        """Every forward of a wrapper, in order."""
        rows = self._rows(
            "SELECT ord, step, wrapper, synchronises, divisor, source, started FROM uses "
            "ORDER BY ord"
        )
        return [Use(*r[:3], *map(bool, r[3:4]), *r[4:]) for r in rows]

    @cached_property
    def events(self) -> list[Event]:
        """Calls, steps, resets, edits, exchanges and uses, as they happened."""
        everything: list[Event] = [
            *self.calls, *self.steps, *self.resets, *self.edits, *self.exchanges, *self.uses,
        ]  # fmt: skip
        return sorted(everything, key=lambda event: event.order)

    def scalars(self, call: Call) -> tuple[float, ...]:
        """The numbers read on nodes in this call: see `NodeState.numbers`."""
        blob = self._one("SELECT scalars FROM calls WHERE ord = ?", call.order)
        return tuple(_numbers("d", blob or b""))

    def nonfinite(self, event: Call | Step) -> bool:
        """Whether anything measured in it is not finite; told without reading it all."""
        table = MEASURED[type(event)]
        blob = self._one(f"SELECT measurements FROM {table} WHERE ord = ?", event.order)
        return any(_numbers("f", blob or b"")[4::ROW_WIDTH])

    def measurements(self, event: Call | Step | Edit | Exchange) -> list[Measurement]:
        """Every measured row of a call, step, edit or exchange, in the order of its layout."""
        return list(self.measured(event))

    def measured(self, event: Call | Step | Edit | Exchange) -> Measured:
        """The same, each worked out when it is asked for."""
        return self._measured(MEASURED[type(event)], event.order, event.layout)

    @lru_cache(maxsize=4)  # noqa: B019 - several look at a large call, one after the other
    def _measured(self, table: str, order: int, layout: int) -> Measured:
        blobs = next(
            self._rows(f"SELECT measurements, vals FROM {table} WHERE ord = ?", order), None
        )
        if blobs is None:
            return Measured((), b"", b"")
        rows = self.layout(layout).rows
        count = len(blobs[0]) // 4
        if count != ROW_WIDTH * len(rows):
            raise self._damaged(f"event {order} has {count} numbers for {len(rows)} measurements")
        return Measured(rows, blobs[0], blobs[1])


def _node(
    index: int, name: str, source: int | None, module: int | None, called: str, custom: str,
    buffer: int | None,
) -> Node:  # fmt: skip
    return Node(index, intern(name), source, module, intern(called), intern(custom), buffer)


def _piece(*row: Any) -> Piece:
    return Piece(*row[:-1], *map(bool, row[-1:]))


class LayoutSize(NamedTuple):
    """The graph of a layout, and how much of everything: `measured` is in bytes of each call."""

    structure: int
    nodes: int
    contributions: int
    measured: int


class Measured(Sequence[Measurement]):
    """The measurements of one event as they lie in the file; each is decoded once, when needed."""

    def __init__(
        self, rows: Sequence[tuple[int, bool, bool]], numbers: bytes, values: bytes
    ) -> None:
        self._rows = rows
        self._numbers = numbers
        self._values = values
        self._known: list[Measurement | None] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Measurement: ...
    @overload
    def __getitem__(self, row: slice) -> list[Measurement]: ...
    def __getitem__(self, row: int | slice) -> Measurement | list[Measurement]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        found = self._known[row]
        if found is None:
            found = self._known[row] = self._decoded(row % len(self._rows))
        return found

    def column(self, place: int) -> Sequence[float]:
        """One number of every row: `SUM`, `NORM` or `NONFINITE`."""
        if sys.byteorder == "little":
            return memoryview(self._numbers).cast("f")[place::ROW_WIDTH]
        return _numbers("f", self._numbers)[place::ROW_WIDTH]

    def norm(self, row: int) -> tuple[float, int]:
        """The norm of a row, and how many of its values are not finite, without all the rest."""
        norm, nonfinite = SIZE.unpack_from(self._numbers, row * NUMBERS.size)
        return norm, int(nonfinite)

    def _decoded(self, row: int) -> Measurement:
        elements, is_complex, _ = self._rows[row]
        real, imaginary, norm, largest, nonfinite, *fingerprint = NUMBERS.unpack_from(
            self._numbers, row * NUMBERS.size
        )
        return Measurement(
            elements,
            complex(real, imaginary) if is_complex else real,
            norm,
            largest,
            int(nonfinite),
            # Not a number where it was not taken: see `Measurement`.
            () if math.isnan(fingerprint[0]) and not nonfinite else tuple(fingerprint),
            self._small(row) if elements <= SMALL else None,
        )

    def _small(self, row: int) -> tuple[float | complex, ...]:
        """All values of a tensor that has few."""
        _, is_complex, is_double = self._rows[row]
        values = self._values[self._places[row] : self._places[row + 1]]
        parts = _numbers("d" if is_double else "f", values)
        if not is_complex:
            return tuple(parts)
        return tuple(complex(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2))

    @cached_property
    def _places(self) -> array[int]:
        """Where the values of each row begin."""
        sizes = {row: _bytes_of_values(row) for row in set(self._rows)}
        return array("q", accumulate((sizes[row] for row in self._rows), initial=0))


def _bytes_of_values(row: tuple[int, bool, bool]) -> int:
    elements, is_complex, is_double = row
    if elements > SMALL:
        return 0
    return elements * (2 if is_complex else 1) * (8 if is_double else 4)
