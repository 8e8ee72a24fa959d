"""A tensor as the trace keeps it: sum, norm, largest, non-finite, fingerprint, small values.

NOTE [Measuring]
Most gradients of a small net have fewer elements than an operation of torch takes nanoseconds to
start. On the CPU a small tensor is therefore only copied when it is seen, by `memmove` into a row
of 1024 numbers or some such rows (an *arena*), and all rows are measured together when the arena
is full or the event is over: one matrix product for the sums and fingerprints of all, one norm, one
largest. A large tensor is measured on the spot, in blocks that stay in the processor's cache, so
that its memory is read once: one product, one dot product, a maximum and a minimum for each block.
No tensor is kept. On other devices every measurement is on the spot, nothing waits for the device,
and the numbers are fetched once, at the end. Which numbers come out depends on the tensor alone,
not on what lies beside it in the arena.

The fingerprint itself: NOTE [Fingerprints] in `tracer/record/signs.py`.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from tracer.events import FINGERPRINT_LENGTH, ROW_WIDTH, SMALL
from tracer.record.quiet import is_transformed, plain, quietly
from tracer.record.shards import Place, place_of
from tracer.record.signs import COLUMNS, column_signs, project_at, project_ones, row_signs

__all__ = [
    "BlindShelf",
    "Measured",
    "Shelf",
    "identity",
    "is_transformed",
    "plain",
    "quietly",
    "shelf_for",
]

ARENA_ROWS = 512
"""Rows of one arena; 2 MiB of float32, what a processor core has as its own cache."""

ARENA_ELEMENTS = 16 * COLUMNS
"""Tensors of so many elements or fewer wait in an arena; larger ones are worth their dispatches."""

BLOCK_ROWS = 128
"""Rows of a large tensor that are measured at once, half a MiB: they are read from the cache."""

STREAMED = 2**22
"""Elements from which a tensor that is not contiguous is copied piece by piece."""

REAL, IMAGINARY, NORM, LARGEST, NONFINITE, FINGERPRINT = range(6)
"""Columns of a stored row."""

Row = tuple[int, bool, bool]

SCATTERED = 2**16
"""So many elements that do not lie together are projected at once: each needs nine signs."""

DOUBLES = (torch.float64, torch.complex128)

_MEASURED_AS_THEY_ARE = (torch.float32, torch.float64)

CPU = torch.device("cpu")
_keys_of = torch._C._dispatch_keys
_ORDINARY = _keys_of(torch.empty(0, device="cpu")).raw_repr()
"""The dispatch keys of a strided tensor on the CPU that nobody wraps, negates or conjugates."""


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether its values lie in plain memory of the CPU: nothing is wrapped, lazy or sparse."""
    return type(tensor) is torch.Tensor and _keys_of(tensor).raw_repr() == _ORDINARY


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """What makes a living tensor the same values as another: () where that cannot be told.

    Contiguous ones count their elements alike in every shape, so that a view that passes on what
    it received is not measured again. The version tells in-place changes. An ordinary contiguous
    tensor, and nothing else, has four parts: address, version, elements, dtype.
    """
    if is_ordinary(tensor):
        address = tensor.data_ptr()
        if not address:
            return ()
        if tensor.is_contiguous():
            return (address, tensor._version, tensor.numel(), tensor.dtype)
        return (address, tensor._version, tensor.dtype, tensor.shape, tensor.stride())
    if type(tensor) is not torch.Tensor:
        inside = getattr(tensor, "_virtual_values", None)  # on a virtual GPU: tracer.devices
        if inside is None:
            return ()
        same = identity(inside)
        return (*same, tensor._version) if same else ()
    if tensor.layout is not torch.strided or is_transformed(tensor) or tensor.is_nested:
        return ()
    if not tensor.numel() or tensor.is_conj() or tensor.is_neg():
        return ()
    version = -1 if tensor.is_inference() else tensor._version
    same = (tensor.data_ptr(), version, tensor.device, tensor.numel(), tensor.dtype)
    return same if tensor.is_contiguous() else (*same, tensor.shape, tensor.stride())


class _How(NamedTuple):
    """How to measure: see `Shelf.add`."""

    like: int | None = None
    recalled: bool = False
    projected: bool = True


_PLAINLY = _How()


class Measured(NamedTuple):
    """What a shelf hands over: see `Layout.rows`, `Call.measurements`, `Call.values`."""

    rows: tuple[Row, ...]
    measurements: bytes
    values: bytes


class _Arena:
    """Rows of memory in which small tensors of one dtype wait to be measured together."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.data = torch.zeros(ARENA_ROWS, COLUMNS, dtype=dtype, device="cpu")
        self.address = self.data.data_ptr()
        self.size = dtype.itemsize
        self.pitch = COLUMNS * self.size
        self.used = 0
        self.numbers: list[int] = []
        """Row of the shelf, for each tensor in here."""
        self.elements: list[int] = []
        self.first: list[int] = []
        """Row of the arena at which it begins."""

    def copy(self, number: int, elements: int, source: int) -> None:
        """Take in a contiguous tensor of the arena's dtype, by its address."""
        rows, rest = divmod(elements, COLUMNS)
        place = self.address + self.used * self.pitch
        length = elements * self.size
        ctypes.memmove(place, source, length)
        if rest:
            ctypes.memset(place + length, 0, self.pitch - rest * self.size)
            rows += 1
        self.numbers.append(number)
        self.elements.append(elements)
        self.first.append(self.used)
        self.used += rows

    def clear(self) -> None:
        self.used = 0
        self.numbers, self.elements, self.first = [], [], []

    def measure(self) -> torch.Tensor:
        """The stored row of each tensor in here: (tensors, 13), float32 on the CPU."""
        # Two rows at least: a product of one row takes another path, and rounds otherwise.
        data = self.data[: max(self.used, 2)]
        table = _products(data)[: self.used]
        table[:, NORM] = torch.linalg.vector_norm(data, dim=1)[: self.used]
        table[:, LARGEST] = torch.maximum(data.amax(1), -data.amin(1))[: self.used]
        if self.used != len(self.numbers):
            table = _gather(table, tuple(self.elements))
        norm, largest = table[:, NORM], table[:, LARGEST]
        if not (((norm < 1e18) & (norm > 1e-15)) | (largest == 0)).all():
            self._mend(table)
        return table.float()

    def _mend(self, table: torch.Tensor) -> None:
        """Count what is not finite; norms whose squares left float32's range, in double."""
        for index, norm in enumerate(table[:, NORM].tolist()):
            if norm == 0 or not 1e-15 < norm < 1e18:
                flat = self.data.view(-1)[self.first[index] * COLUMNS :][: self.elements[index]]
                table[index, NONFINITE] = (~flat.isfinite()).sum()
                table[index, NORM] = torch.linalg.vector_norm(flat, dtype=torch.float64)

    def small(self) -> Iterator[tuple[int, bytes]]:
        """The values of those tensors that are kept whole."""
        for number, elements, first in zip(self.numbers, self.elements, self.first, strict=True):
            if elements <= SMALL:
                place = self.address + first * self.pitch
                yield number, ctypes.string_at(place, elements * self.size)


def _products(data: torch.Tensor) -> torch.Tensor:
    """For each row its sum and fingerprint, where a stored row has them: (rows, 13)."""
    signs = _stored_signs(data.dtype)
    if data.dtype is torch.float64 or torch.get_float32_matmul_precision() == "highest":
        return data @ signs
    # mv is not subject to TF32 or bf16 shortcuts.
    return torch.stack([torch.mv(data, column) for column in signs.t().contiguous()], dim=1)


@lru_cache(maxsize=2)
def _stored_signs(dtype: torch.dtype) -> torch.Tensor:
    """The column signs with the places of a stored row, zeros where it has something else."""
    signs = torch.zeros(COLUMNS, ROW_WIDTH, dtype=dtype, device="cpu")
    columns = column_signs(dtype, CPU)
    signs[:, REAL] = columns[0]
    signs[:, FINGERPRINT:] = columns[1:].t()
    return signs


def _gather(table: torch.Tensor, elements: tuple[int, ...]) -> torch.Tensor:
    """Of the rows of an arena the tensors they belong to."""
    owners, signs = _owners(elements, table.dtype)
    largest = table[:, LARGEST].clone()
    table = table * signs
    table[:, NORM].square_()
    gathered = table.new_zeros(len(elements), ROW_WIDTH).index_add_(0, owners, table)
    gathered[:, NORM].sqrt_()
    gathered[:, LARGEST] = largest.new_zeros(len(elements)).scatter_reduce_(
        0, owners, largest, "amax"
    )
    return gathered


@lru_cache(maxsize=64)
def _owners(elements: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of an arena its tensor, and the row signs in the places of a stored row."""
    counts = [-(-count // COLUMNS) for count in elements]
    owners = torch.tensor(
        [owner for owner, count in enumerate(counts) for _ in range(count)], dtype=torch.int64
    )
    inside = torch.tensor([row for count in counts for row in range(count)], dtype=torch.int64)
    signs = torch.ones(len(inside), ROW_WIDTH, dtype=dtype)
    table = row_signs(ARENA_ELEMENTS // COLUMNS, dtype, CPU)
    signs[:, FINGERPRINT:] = table[1:, inside].t()
    return owners, signs


class Shelf:
    """Measurements of one event; those of other devices stay there until `fetch`.

    Keeps no tensor that it was given: small ones are copied.
    """

    _spare: dict[torch.dtype, list[_Arena]] = {}  # noqa: RUF012 - shared: arenas are used again

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._arenas: dict[torch.dtype, _Arena] = {}
        self._batches: list[tuple[list[int], torch.Tensor]] = []
        self._direct: dict[int, list[float]] = {}
        self._distant: dict[int, torch.Tensor] = {}
        self._small: dict[int, bytes | torch.Tensor] = {}
        # Of rows without a fingerprint what there is of their memory, in its own order.
        self._turned: dict[int, _Found] = {}
        self._lock = threading.Lock()

    def add(
        self,
        tensor: torch.Tensor,
        same: tuple[object, ...] = (),
        *,
        like: int | None = None,
        recalled: bool = False,
        projected: bool = True,
    ) -> int | None:
        """Measure a tensor; its row number, or None where its values cannot be read.

        `same` is its `identity`, if that is known. `like` is the row of a tensor of the same
        memory in another order: all but the fingerprint is the same. `recalled`: it is, or becomes,
        a buffer, which may be asked for again; a large one that is unchanged to the bit, by its
        version and a checksum, is not measured twice. Not `projected`: leave out the fingerprint of
        a large tensor that is not contiguous, which would have to be copied for it.
        """
        if not same:
            same = identity(tensor)
        if len(same) == 4:
            address, _, elements, dtype = same
            if elements <= ARENA_ELEMENTS and dtype in _MEASURED_AS_THEY_ARE:  # type: ignore[operator]
                row = (elements, False, dtype is torch.float64)
                return self._copy(row, dtype, address)  # type: ignore[arg-type]
        with quietly():
            how = _How(like, recalled, projected)
            return self._add(tensor, how)

    def add_part(
        self, tensor: torch.Tensor, place: Place | None, *, recalled: bool = False
    ) -> int | None:
        """Measure a part of a larger tensor, its fingerprint with the signs of the whole."""
        if place is None or (place.start == 0 and place.run >= tensor.numel()):
            return self.add(tensor, recalled=recalled)
        with quietly():
            ordinary = plain(tensor)
            if ordinary is None:
                return None
            return self._add_part(ordinary, place)

    def _add_part(self, tensor: torch.Tensor, place: Place) -> int:
        elements, is_complex = tensor.numel(), tensor.is_complex()
        number = self._number((elements, is_complex, tensor.dtype in DOUBLES))
        if not elements:
            return number
        if is_complex:
            tensor = torch.view_as_real(tensor.resolve_conj())
        flat = tensor.resolve_neg().reshape(-1)
        if flat.dtype is not torch.float32 and flat.dtype is not torch.float64:
            flat = flat.float()
        self._measure(number, tensor if is_complex else flat, is_complex, _PLAINLY)
        self._put_fingerprint(number, flat, _project_part(flat, place, 1 + is_complex))
        if elements <= SMALL:
            self._small[number] = _bytes(flat) if flat.is_cpu else flat.clone()
        return number

    def _put_fingerprint(self, number: int, flat: torch.Tensor, projected: torch.Tensor) -> None:
        if flat.is_cpu:
            self._direct[number][FINGERPRINT:] = projected[1:].tolist()
        else:
            self._distant[number][FINGERPRINT:] = projected[1:]

    def _copy(self, row: Row, dtype: torch.dtype, address: int) -> int:
        elements = row[0]
        with self._lock:
            arena = self._arenas.get(dtype)
            if arena is None:
                arena = self._arenas[dtype] = self._open(dtype)
            elif arena.used * COLUMNS + elements > (ARENA_ROWS - 1) * COLUMNS:
                with quietly():
                    self._close(arena)
            number = len(self.rows)
            self.rows.append(row)
            arena.copy(number, elements, address)
        return number

    @classmethod
    def _open(cls, dtype: torch.dtype) -> _Arena:
        spare = cls._spare.get(dtype)
        return spare.pop() if spare else _Arena(dtype)

    def _close(self, arena: _Arena) -> None:
        """Measure what waits in an arena, which is empty then."""
        if arena.numbers:
            self._batches.append((arena.numbers, arena.measure()))
            self._small.update(arena.small())
        arena.clear()

    def _add(self, tensor: torch.Tensor, how: _How) -> int | None:
        if not is_ordinary(tensor):
            place, ordinary = place_of(tensor), plain(tensor)
            if ordinary is None:
                return None
            if place is not None:
                return self._add_part(ordinary, place)
            tensor = ordinary
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor._is_zerotensor():
            tensor = tensor.clone()  # zeros without memory, as the backward of sgn sends them
        if tensor.layout is torch.sparse_coo:
            return self._add_sparse(tensor)
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        return self._add_strided(tensor, how)

    def _add_strided(self, tensor: torch.Tensor, how: _How) -> int:
        elements, is_complex = tensor.numel(), tensor.is_complex()
        is_double = tensor.dtype in DOUBLES
        row = (elements, is_complex, is_double)
        if elements > SMALL and not is_complex and not any(tensor.stride()):
            return self._add_uniform(row, tensor)
        if is_complex:
            tensor = torch.view_as_real(tensor.resolve_conj())
        elif tensor.is_neg():
            tensor = tensor.resolve_neg()
        if tensor.dtype is not torch.float32 and tensor.dtype is not torch.float64:
            tensor = tensor.float()
        if tensor.is_cpu and not is_complex and 0 < elements <= ARENA_ELEMENTS:
            tensor = tensor.contiguous()
            return self._copy(row, tensor.dtype, tensor.data_ptr())
        number = self._number(row)
        if elements:
            self._measure(number, tensor, is_complex, how)
            if elements <= SMALL:
                # Off the CPU the copy waits for `fetch`: reading it here would wait for the device.
                flat = tensor.reshape(-1)
                self._small[number] = _bytes(flat) if flat.is_cpu else flat.clone()
        return number

    def _number(self, row: Row) -> int:
        with self._lock:
            self.rows.append(row)
            return len(self.rows) - 1

    def _measure(self, number: int, tensor: torch.Tensor, is_complex: bool, how: _How) -> None:
        if not tensor.is_cpu:
            self._distant[number] = _measure_there(tensor.reshape(-1), is_complex)
        elif is_complex:
            self._direct[number] = _measure_here(tensor).row
            _mend_complex(self._direct[number], tensor)
        else:
            self._direct[number] = self._measure_large(number, tensor, how)

    def _measure_large(self, number: int, tensor: torch.Tensor, how: _How) -> list[float]:
        memory = None if how.projected else in_memory_order(tensor)
        if memory is not None:
            found = self._turned[number] = _measure_here(memory, recalled=True)
            return found.row[:FINGERPRINT] + _UNPROJECTED
        turned = None if how.like is None else self._turned.get(how.like)
        if turned is not None and tensor.is_contiguous():
            if how.recalled:
                _remember(tensor, turned)
            return turned.row
        known = _recall(tensor) if how.recalled else None
        if known is None:
            known = _measure_here(tensor, how.recalled)
            if how.recalled:
                _remember(tensor, known)
        return known.row

    def has_fingerprint(self, row: int | None) -> bool:
        """Whether this row was projected: see `add`."""
        numbers = None if row is None else self._direct.get(row)
        return numbers is None or numbers[FINGERPRINT] == numbers[FINGERPRINT]

    def _add_uniform(self, row: Row, tensor: torch.Tensor) -> int:
        """An expanded scalar: every element is the same."""
        number, elements = self._number(row), row[0]
        value = tensor.as_strided((1,), (1,), tensor.storage_offset())
        if value.is_cpu:
            self._direct[number] = _uniform(float(value.item()), elements)
        else:
            self._distant[number] = _uniform_there(value.double(), elements)
        return number

    def _add_sparse(self, tensor: torch.Tensor) -> int:
        """A sparse gradient, measured through its rows, as the dense one would be."""
        tensor = tensor.coalesce()
        elements, values = tensor.numel(), tensor.values()
        if elements <= SMALL or tensor.is_complex():
            return self._add_strided(tensor.to_dense(), _PLAINLY)
        number = self._number((elements, False, tensor.dtype is torch.float64))
        if values.numel() == 0:
            return number
        flat = values.reshape(-1)
        if flat.dtype is not torch.float64:
            flat = flat.float()
        self._measure(number, flat, False, _PLAINLY)
        self._put_fingerprint(number, flat, project_at(_positions(tensor), flat))
        return number

    def fetch(self) -> Measured:
        """Bring everything to the CPU as bytes; waits for the devices. The shelf is empty after."""
        with quietly():
            for arena in self._arenas.values():
                self._close(arena)
                self._spare.setdefault(arena.data.dtype, []).append(arena)
            measured = Measured(tuple(self.rows), _bytes(self._table()), self._small_bytes())
        self.__init__()  # type: ignore[misc]
        return measured

    def _table(self) -> torch.Tensor:
        if len(self._batches) == 1 and len(self._batches[0][0]) == len(self.rows):
            return self._batches[0][1]
        table = torch.zeros(len(self.rows), ROW_WIDTH, dtype=torch.float32, device="cpu")
        for numbers, batch in self._batches:
            table[torch.tensor(numbers, dtype=torch.int64, device="cpu")] = batch
        if self._direct:
            where = torch.tensor(list(self._direct), dtype=torch.int64, device="cpu")
            values = list(self._direct.values())
            table[where] = torch.tensor(values, dtype=torch.float64, device="cpu").float()
        for device in {tensor.device for tensor in self._distant.values()}:
            mine = {n: t for n, t in self._distant.items() if t.device == device}
            where = torch.tensor(list(mine), dtype=torch.int64, device="cpu")
            table[where] = torch.stack(list(mine.values())).cpu()
        return table

    def _small_bytes(self) -> bytes:
        parts = []
        for number in sorted(self._small):
            kept = self._small[number]
            parts.append(kept if isinstance(kept, bytes) else _bytes(kept.cpu()))
        return b"".join(parts)


class BlindShelf(Shelf):
    """Measures nothing: where only shapes are asked for."""

    def add(self, tensor: torch.Tensor, same: tuple[object, ...] = (), **how: Any) -> None:
        return None

    def add_part(self, tensor: torch.Tensor, place: Place | None, **how: Any) -> None:
        return None


def shelf_for(detail: str) -> Shelf:
    """A place for the measurements of one event, at a level of detail."""
    return BlindShelf() if detail == "structure" else Shelf()


def _bytes(tensor: torch.Tensor) -> bytes:
    """The memory of a CPU tensor, without numpy, which torch does not require."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def _uniform(value: float, elements: int) -> list[float]:
    total, *fingerprint = (one * value for one in project_ones(elements))
    size = abs(value)
    nonfinite = 0 if math.isfinite(value) else elements
    return [total, 0.0, size * math.sqrt(elements), size, nonfinite, *fingerprint]


def _uniform_there(value: torch.Tensor, elements: int) -> torch.Tensor:
    """The same on another device; `value` is a float64 of shape (1,)."""
    ones = torch.tensor(project_ones(elements), dtype=torch.float64, device="cpu")
    projected = ones.to(value.device, non_blocking=True) * value
    size = value.abs()
    nonfinite = (~value.isfinite()) * elements
    facts = [projected[:1], size * 0, size * math.sqrt(elements), size, nonfinite, projected[1:]]
    return torch.cat(facts).float()


class _Found(NamedTuple):
    """A stored row, and the checksum of the memory it was measured from."""

    row: list[float]
    bits: int | None


def _measure_here(tensor: torch.Tensor, recalled: bool = False) -> _Found:
    """The stored row of a float32 or float64 tensor on the CPU, its memory read once."""
    norm, projection = _Norm(), _Projection(tensor.numel(), tensor.dtype)
    bits: int | None = 0 if recalled and _has_bits(tensor) else None
    for piece in _pieces(tensor):
        norm.add(piece)
        projection.add(piece)
        if bits is not None:
            bits += _bits(piece)
    total, *fingerprint = projection.total()
    return _Found([total, 0.0, *norm.total(tensor), *fingerprint], bits)


_UNPROJECTED = [math.nan] * FINGERPRINT_LENGTH


class _Norm:
    """Norm, largest and non-finite of a tensor that comes in pieces."""

    def __init__(self) -> None:
        self._square = 0.0
        self._largest = 0.0

    def add(self, piece: torch.Tensor) -> None:
        self._square += float(torch.dot(piece, piece))
        high, low = float(piece.amax()), float(piece.amin())
        # Written so that a NaN stays.
        self._largest = max(high, -low, self._largest) if high == high else high

    def total(self, tensor: torch.Tensor) -> tuple[float, float, int]:
        square, largest = self._square, self._largest
        norm = math.sqrt(square) if square >= 0 else square
        if norm == 0 == largest or 1e-15 < norm < 1e18:
            return norm, largest, 0
        # Count what is not finite; a norm whose squares left float32's range is taken in double.
        norm = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
        return norm, largest, int((~tensor.isfinite()).sum())


_recalls: dict[int, tuple[tuple[object, ...], _Found]] = {}
"""By address what was measured there last: identity, and what was found. Large buffers only."""

MOST_RECALLS = 10_000


def _remember(tensor: torch.Tensor, found: _Found) -> None:
    if found.bits is not None and tensor.is_contiguous():
        if len(_recalls) >= MOST_RECALLS:
            _recalls.clear()
        _recalls[tensor.data_ptr()] = ((tensor._version, tensor.numel(), tensor.dtype), found)


def _recall(tensor: torch.Tensor) -> _Found | None:
    """What was found when a buffer was measured before, if its bits are the same.

    A pass at the speed of memory sees any change. The version alone would not do: neither
    `p.grad.data /= 4` counts it up, nor do collectives that write into the buckets of DDP.
    """
    known = _recalls.get(tensor.data_ptr())
    if known is None or not tensor.is_contiguous() or not _has_bits(tensor):
        return None
    if known[0] != (tensor._version, tensor.numel(), tensor.dtype):
        return None
    pieces = torch.split(tensor.view(-1), BLOCK_ROWS * COLUMNS)
    return known[1] if sum(map(_bits, pieces)) == known[1].bits else None


def _has_bits(tensor: torch.Tensor) -> bool:
    return not (tensor.is_inference() or tensor.storage_offset() % 2)


def _bits(flat: torch.Tensor) -> int:
    """The sum of the memory as integers of 64 bits."""
    if flat.dtype is torch.float32 and len(flat) % 2:
        even = int(flat[:-1].view(torch.int64).sum()) if len(flat) > 1 else 0
        return even + int(flat[-1:].view(torch.int32))
    return int(flat.view(torch.int64).sum())


def in_memory_order(tensor: torch.Tensor) -> torch.Tensor | None:
    """The elements as they lie in memory, flat, if that is without gaps and overlaps."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != step:
                return None
            step *= size
    return tensor.as_strided((step,), (1,))


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The elements in logical order, flat, in pieces of whole rows; the last may end anywhere."""
    block = BLOCK_ROWS * COLUMNS
    if tensor.is_contiguous() or tensor.numel() < STREAMED:
        yield from torch.split(tensor.reshape(-1), block)
        return
    rest: list[torch.Tensor] = []
    waiting = 0
    for part in _slices(tensor):
        rest.append(part)
        waiting += part.numel()
        if waiting >= block:
            flat = torch.cat(rest) if len(rest) > 1 else rest[0]
            whole = waiting - waiting % COLUMNS
            yield from torch.split(flat[:whole], block)
            rest, waiting = [flat[whole:]], waiting - whole
    yield torch.cat(rest)


def _slices(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A large tensor that is not contiguous, copied slice by slice along its first dimension."""
    each = max(16, BLOCK_ROWS * COLUMNS // max(1, tensor[0].numel()))
    for part in torch.split(tensor, each):
        if part.dim() == 2 and part.stride(0) == 1:
            # Two copies: of runs of memory, then a transposition, for which torch has a fast path.
            part = part.t().contiguous().t()
        yield part.contiguous().view(-1)


class _Projection:
    """Sum and fingerprint of a flat tensor that comes in pieces of whole rows."""

    def __init__(self, elements: int, dtype: torch.dtype) -> None:
        self._row = 0
        self._signs = row_signs(elements // COLUMNS + 1, dtype, CPU)
        self._columns = column_signs(dtype, CPU)
        self._folded = torch.zeros(1 + FINGERPRINT_LENGTH, COLUMNS, dtype=dtype, device="cpu")
        self._rest: torch.Tensor | None = None

    def add(self, piece: torch.Tensor) -> None:
        rows, rest = divmod(piece.numel(), COLUMNS)
        signs = self._signs[:, self._row : self._row + rows]
        if rows:
            _add_product(self._folded, signs, piece[: rows * COLUMNS].view(rows, COLUMNS))
        self._row += rows
        if rest:
            tail = torch.mv(self._columns[:, :rest], piece[rows * COLUMNS :])
            self._rest = tail * self._signs[:, self._row]

    def total(self) -> list[float]:
        total = (self._folded * self._columns).sum(1)
        if self._rest is not None:
            total += self._rest
        numbers: list[float] = total.tolist()
        return numbers


def _add_product(total: torch.Tensor, signs: torch.Tensor, folded: torch.Tensor) -> None:
    """total += signs @ folded, at full precision whatever the user allows for matrix products."""
    if folded.dtype is torch.float64 or torch.get_float32_matmul_precision() == "highest":
        total.addmm_(signs, folded)
        return
    # mv is not subject to TF32 or bf16 shortcuts.
    total += torch.stack([torch.mv(folded.t(), row) for row in signs.contiguous()])


def _project_part(flat: torch.Tensor, place: Place, reals: int) -> torch.Tensor:
    """Sum and fingerprint of a part of a larger tensor, with the signs of the whole: (9,).

    `reals` is how many numbers of `flat` an element has: 2 for complex ones.
    """
    start, run, stride = (reals * number for number in place)
    if run >= flat.numel():
        return _project_from(flat, start)
    total = torch.zeros(1 + FINGERPRINT_LENGTH, dtype=flat.dtype, device=flat.device)
    for first in range(0, flat.numel(), SCATTERED):
        values = flat[first : first + SCATTERED]
        number = torch.arange(first, first + len(values), device=flat.device)
        total += project_at(start + number // run * stride + number % run, values)
    return total


def _project_from(flat: torch.Tensor, start: int) -> torch.Tensor:
    """Elements that follow one another: the rest of a row, whole rows, the beginning of a row."""
    row, column = divmod(start, COLUMNS)
    columns = column_signs(flat.dtype, flat.device)
    signs = row_signs((start + flat.numel()) // COLUMNS + 1, flat.dtype, flat.device)
    total = torch.zeros(1 + FINGERPRINT_LENGTH, dtype=flat.dtype, device=flat.device)
    if column:
        head = flat[: COLUMNS - column]
        total += signs[:, row] * torch.mv(columns[:, column : column + len(head)], head)
        flat, row = flat[len(head) :], row + 1
    rows = flat.numel() // COLUMNS
    if rows:
        folded = torch.zeros(1 + FINGERPRINT_LENGTH, COLUMNS, dtype=flat.dtype, device=flat.device)
        body = flat[: rows * COLUMNS].view(rows, COLUMNS)
        _add_product(folded, signs[:, row : row + rows], body)
        total += (folded * columns).sum(1)
    rest = flat[rows * COLUMNS :]
    if len(rest):
        total += signs[:, row + rows] * torch.mv(columns[:, : len(rest)], rest)
    return total


def _mend_complex(numbers: list[float], pairs: torch.Tensor) -> None:
    """Parts summed apart; the largest magnitude is of complex numbers, not of their parts."""
    numbers[REAL], numbers[IMAGINARY] = pairs.reshape(-1, 2).sum(0).tolist()
    numbers[LARGEST] = float(torch.linalg.vector_norm(pairs, dim=-1).max())


def _measure_there(flat: torch.Tensor, is_complex: bool) -> torch.Tensor:
    """The stored row of a flat tensor on another device, nothing waiting for the device."""
    rows, rest = divmod(flat.numel(), COLUMNS)
    signs = row_signs(rows + 1, flat.dtype, flat.device)
    columns = column_signs(flat.dtype, flat.device)
    folded = torch.zeros(1 + FINGERPRINT_LENGTH, COLUMNS, dtype=flat.dtype, device=flat.device)
    if rows:
        _add_product(folded, signs[:, :rows], flat[: rows * COLUMNS].view(rows, COLUMNS))
    total = (folded * columns).sum(1)
    if rest:
        total += signs[:, rows] * torch.mv(columns[:, :rest], flat[rows * COLUMNS :])
    row = torch.zeros(ROW_WIDTH, dtype=torch.float32, device=flat.device)
    row[REAL], row[FINGERPRINT:] = total[0], total[1:]
    row[NORM] = torch.linalg.vector_norm(flat)
    row[LARGEST] = torch.maximum(flat.amax(), -flat.amin())
    row[NONFINITE] = (~flat.isfinite()).sum()
    if is_complex:
        pairs = flat.view(-1, 2)
        row[:NORM] = pairs.sum(0)
        row[LARGEST] = torch.linalg.vector_norm(pairs, dim=1).max()
    return row


def _positions(tensor: torch.Tensor) -> torch.Tensor:
    """Row-major positions of the values of a coalesced sparse tensor: (nnz * dense elements,)."""
    indices, shape = tensor.indices(), tensor.shape
    place = torch.zeros(indices.shape[1], dtype=torch.int64, device=indices.device)
    for axis in range(tensor.sparse_dim()):
        place = place * shape[axis] + indices[axis]
    dense = math.prod(shape[tensor.sparse_dim() :])
    return (place[:, None] * dense + torch.arange(dense, device=indices.device)).reshape(-1)
