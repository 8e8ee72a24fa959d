"""A trace with a bit of everything in it, and every way in which a file can be broken."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import tracer

__all__ = ["BROKEN", "HOSTILE", "record", "rewrite_texts"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = checkpoint(self.first, x.requires_grad_(), use_reentrant=True)
        return self.second(hidden.relu())


def record(path: Path) -> None:
    """Three steps with accumulation, a clip, a scaler, a nested call, a hook and autograd.grad."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    net.second.bias.register_hook(lambda gradient: gradient * 0.5)
    with tracer.Recorder(path):
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):
                x = torch.randn(6, 4)
                loss = F.cross_entropy(net(x), torch.tensor([0, 1, 2, 0, 1, 2]))
                scaler.scale(loss / 2).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        torch.autograd.grad(net.second(x @ net.first.weight.T).sum(), list(net.second.parameters()))


Breaker = Callable[[Path, random.Random], None]


def flip_bits(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def flip_bits_of_the_header(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(100)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.choice((rng.randrange(200), rng.randrange(len(data))))])


def zero_pages(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 4))):
        start = 4096 * rng.randrange(len(data) // 4096)
        data[start : start + 4096] = bytes(4096)
    path.write_bytes(data)


def swap_pages(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    one, other = (4096 * rng.randrange(len(data) // 4096) for _ in range(2))
    page = data[one : one + 4096]
    data[one : one + 4096] = data[other : other + 4096]
    data[other : other + 4096] = page
    path.write_bytes(data)


def change_the_application_id(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {rng.randrange(2**31)}")


def change_the_schema_version(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {rng.randrange(3, 2**31)}")


CELLS: tuple[Any, ...] = (
    -1, 0, 1, 7, 2**31, 2**62, -(2**62), 1.5, float("inf"), -float("inf"), "", "x", "1", "null",
    "[]", "{}", "[1]", '"x"', "[null]", "NaN", "[1e999]", "-1", "{", "[" * 5000, '{"a":{}}',
    '{"buffers":5}', '{"buffers":["x"]}', "[[1]]", "[-5]", "[99999999999]", "\x00", "é\u202e", b"",
    b"\x00", b"\xff" * 4, b"\x00\x00\xc0\x7f" * 13, b"\xff" * 52, None,
)  # fmt: skip


def change_a_cell(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        table, column = any_column(db, rng)
        rows = [row[0] for row in db.execute(f"SELECT {column} FROM {table}")]
        if not rows:
            return
        key = keys_of(db, table)
        chosen = rng.choice(list(db.execute(f"SELECT {', '.join(key)} FROM {table}")))
        where = " AND ".join(f"{name} IS ?" for name in key)
        try:
            db.execute(
                f"UPDATE {table} SET {column} = ? WHERE {where}", (rng.choice(CELLS), *chosen)
            )
        except sqlite3.IntegrityError:
            return  # the schema itself forbids it
        db.commit()


def change_a_column(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        table, column = any_column(db, rng)
        try:
            db.execute(f"UPDATE {table} SET {column} = ?", (rng.choice(CELLS),))
        except sqlite3.IntegrityError:
            return
        db.commit()


def remove_rows(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        table, _ = any_column(db, rng)
        key = keys_of(db, table)
        rows = list(db.execute(f"SELECT {', '.join(key)} FROM {table}"))
        where = " AND ".join(f"{name} IS ?" for name in key)
        for row in rng.sample(rows, min(len(rows), rng.choice((1, 5, len(rows))))):
            db.execute(f"DELETE FROM {table} WHERE {where}", row)
        db.commit()


def drop_a_table(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"DROP TABLE {any_column(db, rng)[0]}")


def rename_a_column(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as db:
        table, column = any_column(db, rng)
        db.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO elsewhere")


def any_column(db: sqlite3.Connection, rng: random.Random) -> tuple[str, str]:
    """A table and one of its columns; each table as likely as the others."""
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = rng.choice(sorted(names))
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    return table, rng.choice(columns)


def keys_of(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5]]


BROKEN: Mapping[str, Breaker] = {
    breaker.__name__: breaker
    for breaker in (
        flip_bits, flip_bits_of_the_header, cut_short, zero_pages, swap_pages,
        change_the_application_id, change_the_schema_version, change_a_cell, change_a_column,
        remove_rows, drop_a_table, rename_a_column,
    )
}  # fmt: skip

HOSTILE: Mapping[str, str] = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "quotes": "a\"b'c`d\\",
    "backslash": "\\",
    "newlines": "one\ntwo\r\nthree\ttab",
    "zero": "a\x00b",
    "escapes": "\x1b[31mred\x1b]0;title\x07\x9b5m",
    "right to left": "abc\u202edef\u2066ghi\u200f",
    "long": "x" * 10_000,
    "long path": ".".join(["deep"] * 300),
    "surrogates": "a\ud800b\udcff",
    "no characters": "\ufffe\uffff\u0001",
    "entities": "&amp;&lt;&#x41;&nope;",
    "cdata": "]]><!-- --><!DOCTYPE x>",
    "dot": '<b>x</b>"]; evil [label="x\\N\\l{|}',
    "markup": "[red]x[/red] **bold** {0} %s %(a)s $HOME {",
    "combining": "e" + "\u0301" * 50,
    "wide": "漢字カナ👩‍👩‍👧",
    "spaces": "  \u00a0\u2003\u3000 ",
    "uri": "javascript:alert(1)",
}
"""Names that somebody could give to a parameter, a module, a file, a function or a variable."""

TEXTS = (
    "sources.file", "sources.function", "modules.path", "modules.kind", "modules.variable",
    "buffers.name", "nodes.called", "nodes.custom", "nodes.name", "roots.name", "calls.outcome",
    "steps.kind", "resets.by", "sources.text",
)  # fmt: skip
"""Columns that hold what the script called something."""


def rewrite_texts(path: Path, text: str) -> int:
    """Put a text before every name in the trace; how many were changed."""
    changed = 0
    clean = text.encode("utf-8", "backslashreplace").decode()
    with closing(sqlite3.connect(path)) as db:
        for place in TEXTS:
            table, column = place.split(".")
            cursor = db.execute(f"UPDATE {table} SET {column} = ? || {column}", (clean,))
            changed += cursor.rowcount
        db.commit()
    return changed


def copy_of(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder / "broken.trace"))
