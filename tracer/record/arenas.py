"""Small tensors on the CPU: copied when they are seen, measured together later.

An operation of torch takes microseconds to start, in which it would measure thousands of elements.
So a small tensor is only copied when it is seen, by `memmove` into some rows of an *arena*, and all
rows are measured together when the arena is full or the event is over: one matrix product for the
sums and fingerprints of all, one norm, one largest. Which numbers come out depends on the tensor
alone, not on what lies beside it.

The copies stay where they are until the arena is used again, by the event after the next. A buffer
that is looked at a second time and has the very bytes of its copy has the numbers that were found.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from tracer.events import ROW_WIDTH, SMALL
from tracer.record.signs import COLUMNS, column_signs, row_signs

__all__ = [
    "ARENA_ELEMENTS",
    "FINGERPRINT",
    "IMAGINARY",
    "LARGEST",
    "MOST_ROWS",
    "NONFINITE",
    "NORM",
    "REAL",
    "ROW_BYTES",
    "Arena",
    "Batch",
    "bytes_of",
    "recalled",
]

ARENA_ROWS = 512
"""Rows of one arena; 2 MiB of float32, what a processor core has as its own cache."""

MOST_ROWS = ARENA_ROWS - 1
"""Rows that are used before an arena is measured."""

ARENA_ELEMENTS = 16 * COLUMNS
"""Tensors of so many elements or fewer wait in an arena; larger ones are worth their dispatches."""

REAL, IMAGINARY, NORM, LARGEST, NONFINITE, FINGERPRINT = range(6)
"""Columns of a stored row."""

ROW_BYTES = 4 * ROW_WIDTH

CPU = torch.device("cpu")


class Batch:
    """What waits in an arena together: rows of the shelf, elements, row of the arena of each."""

    __slots__ = ("elements", "first", "numbers", "table")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.elements: list[int] = []
        self.first: list[int] = []
        self.table: bytes | None = None
        """The stored rows, one after the other, once they are measured."""


class Arena:
    """Rows of memory in which small tensors of one dtype wait to be measured together."""

    _spare: dict[torch.dtype, deque[Arena]] = {}  # noqa: RUF012 - shared: arenas are used again

    def __init__(self, dtype: torch.dtype) -> None:
        self.data = torch.zeros(ARENA_ROWS, COLUMNS, dtype=dtype, device="cpu")
        self.address = self.data.data_ptr()
        self.size = dtype.itemsize
        self.pitch = COLUMNS * self.size
        self.used = 0
        self.batch = Batch()
        self._ends = [0] * ARENA_ROWS
        """For each row how many bytes of it may be other than zero."""
        # Of its own: what they hold is written anew in each batch, and shelves have threads.
        self._views = lru_cache(maxsize=64)(_Views)
        self._owners = lru_cache(maxsize=64)(_Owners)

    @classmethod
    def open(cls, dtype: torch.dtype) -> Arena:
        """One that is not in use; of two the one that was used longer ago."""
        spare = cls._spare.get(dtype)
        return spare.popleft() if spare and len(spare) > 1 else cls(dtype)

    def give_back(self) -> None:
        self._spare.setdefault(self.data.dtype, deque()).append(self)

    def copy(self, number: int, elements: int, source: int) -> None:
        """Take in a contiguous tensor of the arena's dtype, by its address."""
        if self.batch.table is not None:
            self.batch = Batch()
        batch, first = self.batch, self.used
        length = elements * self.size
        place = self.address + first * self.pitch
        ctypes.memmove(place, source, length)
        rows, rest = divmod(length, self.pitch)
        ends = self._ends
        if rows:
            ends[first : first + rows] = [self.pitch] * rows
        if rest:
            if ends[first + rows] > rest:
                ctypes.memset(place + length, 0, ends[first + rows] - rest)
            ends[first + rows] = rest
            rows += 1
        batch.numbers.append(number)
        batch.elements.append(elements)
        batch.first.append(first)
        self.used += rows

    def keep(self, source: int) -> None:
        """What was copied last, from this address, may be asked for again: see `recalled`."""
        if len(_copies) >= MOST_COPIES:
            _copies.clear()
        _copies[source] = _Copy(self, self.batch, len(self.batch.numbers) - 1)

    def measure(self) -> Batch:
        """The numbers of all that waits; the arena is empty then."""
        batch, rows = self.batch, self.used
        # Two rows at least: a product of one row takes another path, and rounds otherwise.
        table = self._views(self.data, max(rows, 2)).measure()[:rows]
        if rows != len(batch.numbers):
            table = self._owners(tuple(batch.elements), table.dtype).gather(table)
        norms, largest = table[:, NORM].tolist(), table[:, LARGEST].tolist()
        for index, (norm, most) in enumerate(zip(norms, largest, strict=True)):
            if not (1e-15 < norm < 1e18 or most == 0):
                self._mend(index, table)
        batch.table = bytes_of(table.float())
        self.used = 0
        return batch

    def _mend(self, index: int, table: torch.Tensor) -> None:
        """Count what is not finite; a norm whose squares left float32's range, in double."""
        flat = self.data.view(-1)[self.batch.first[index] * COLUMNS :]
        flat = flat[: self.batch.elements[index]]
        table[index, NONFINITE] = (~flat.isfinite()).sum()
        table[index, NORM] = torch.linalg.vector_norm(flat, dtype=torch.float64)

    def small(self) -> Iterator[tuple[int, bytes]]:
        """The values of those tensors that are kept whole."""
        batch = self.batch
        if not batch.elements or min(batch.elements) > SMALL:
            return
        beginnings = bytes_of(self.data[: batch.first[-1] + 1, :SMALL])
        for number, elements, first in zip(batch.numbers, batch.elements, batch.first, strict=True):
            if elements <= SMALL:
                place = first * SMALL * self.size
                yield number, beginnings[place : place + elements * self.size]


class _Copy(NamedTuple):
    """Where a tensor was copied to, and its place in the batch there."""

    arena: Arena
    batch: Batch
    place: int


_copies: dict[int, _Copy] = {}
"""By address the last copy of each small tensor that is, or may become, a buffer."""

MOST_COPIES = 10_000


def recalled(address: int, elements: int, dtype: torch.dtype) -> bytes | None:
    """The stored row of what lies at an address, if its bytes are those that were measured."""
    copy = _copies.get(address)
    if copy is None:
        return None
    arena, batch, index = copy
    if arena.batch is not batch or batch.table is None:
        return None
    if batch.elements[index] != elements or arena.data.dtype is not dtype:
        return None
    place = arena.address + batch.first[index] * arena.pitch
    if not _is_same(address, place, elements * arena.size):
        return None
    return batch.table[index * ROW_BYTES : (index + 1) * ROW_BYTES]


def _is_same(one: int, other: int, length: int) -> bool:
    return ctypes.string_at(one, length) == ctypes.string_at(other, length)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The memory of a CPU tensor, without numpy, which torch does not require."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


class _Views:
    """The first rows of an arena, and a table for what is found of them: made once for each count.

    Where a net is small, half of the time of an operation goes into making such views.
    """

    def __init__(self, data: torch.Tensor, rows: int) -> None:
        self.data = data[:rows]
        self.table = data.new_zeros(rows, ROW_WIDTH)
        self.norm, self.largest = self.table[:, NORM], self.table[:, LARGEST]
        self.smallest = data.new_zeros(rows)

    def measure(self) -> torch.Tensor:
        """For each row of the arena a stored row; valid until the next call."""
        data = self.data
        signs = _stored_signs(data.dtype)
        if data.dtype is torch.float64 or torch.get_float32_matmul_precision() == "highest":
            torch.mm(data, signs, out=self.table)
        else:
            # mv is not subject to TF32 or bf16 shortcuts.
            columns = [torch.mv(data, column) for column in signs.t().contiguous()]
            torch.stack(columns, dim=1, out=self.table)
        torch.linalg.vector_norm(data, dim=1, out=self.norm)
        torch.amax(data, 1, out=self.largest)
        torch.amin(data, 1, out=self.smallest)
        torch.maximum(self.largest, self.smallest.neg_(), out=self.largest)
        return self.table


@lru_cache(maxsize=2)
def _stored_signs(dtype: torch.dtype) -> torch.Tensor:
    """The column signs with the places of a stored row, zeros where it has something else."""
    signs = torch.zeros(COLUMNS, ROW_WIDTH, dtype=dtype, device="cpu")
    columns = column_signs(dtype, CPU)
    signs[:, REAL] = columns[0]
    signs[:, FINGERPRINT:] = columns[1:].t()
    return signs


class _Owners:
    """For each row of an arena the tensor that it belongs to, and its signs; room for the sums."""

    def __init__(self, elements: tuple[int, ...], dtype: torch.dtype) -> None:
        counts = [-(-count // COLUMNS) for count in elements]
        self.numbers = torch.tensor(
            [owner for owner, count in enumerate(counts) for _ in range(count)], dtype=torch.int64
        )
        inside = torch.tensor([row for count in counts for row in range(count)], dtype=torch.int64)
        self.signs = torch.ones(len(inside), ROW_WIDTH, dtype=dtype)
        signs = row_signs(ARENA_ELEMENTS // COLUMNS, dtype, CPU)
        self.signs[:, FINGERPRINT:] = signs[1:, inside].t()
        self.rows = torch.zeros_like(self.signs)
        self.row_norm = self.rows[:, NORM]
        self.table = torch.zeros(len(elements), ROW_WIDTH, dtype=dtype)
        self.norm, self.largest = self.table[:, NORM], self.table[:, LARGEST]

    def gather(self, table: torch.Tensor) -> torch.Tensor:
        """Of the stored rows of the rows of an arena those of the tensors; valid until the next."""
        torch.mul(table, self.signs, out=self.rows)
        self.row_norm.square_()
        self.table.zero_().index_add_(0, self.numbers, self.rows)
        self.norm.sqrt_()
        self.largest.zero_().scatter_reduce_(0, self.numbers, table[:, LARGEST], "amax")
        return self.table
