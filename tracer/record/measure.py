"""A tensor as the trace keeps it: sum, norm, largest, non-finite, fingerprint, small values.

NOTE [Measuring]
On the CPU a small tensor is only copied when it is seen, and measured together with others later:
`tracer/record/arenas.py`. A large one is measured on the spot, in blocks that stay in the
processor's cache, so that its memory is read once: `tracer/record/large.py`. No tensor is kept. On
other devices every measurement is on the spot, nothing waits for the device, and the numbers are
fetched once, at the end. Which numbers come out depends on the tensor alone.

The fingerprint itself: NOTE [Fingerprints] in `tracer/record/signs.py`.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from tracer.events import FINGERPRINT_LENGTH, ROW_WIDTH, SMALL
from tracer.record import arenas, large
from tracer.record.arenas import (
    ARENA_ELEMENTS,
    FINGERPRINT,
    IMAGINARY,
    LARGEST,
    MOST_ROWS,
    NONFINITE,
    NORM,
    REAL,
    ROW_BYTES,
    Arena,
    bytes_of,
)
from tracer.record.quiet import is_transformed, needs_quiet, plain, quietly
from tracer.record.shards import Place, place_of
from tracer.record.signs import COLUMNS, column_signs, project_at, project_ones, row_signs

__all__ = [
    "ORDINARY",
    "BlindShelf",
    "Measured",
    "Shelf",
    "can_be_put",
    "identity",
    "is_small",
    "is_transformed",
    "keys_of",
    "plain",
    "quietly",
    "shelf_for",
]

Row = tuple[int, bool, bool]

SCATTERED = 2**16
"""So many elements that do not lie together are projected at once: each needs nine signs."""

DOUBLES = (torch.float64, torch.complex128)

_MEASURED_AS_THEY_ARE = (torch.float32, torch.float64)

CPU = torch.device("cpu")
keys_of = torch._C._dispatch_keys
ORDINARY = keys_of(torch.empty(0, device="cpu")).raw_repr()
"""The dispatch keys of a strided tensor on the CPU that nobody wraps, negates or conjugates."""


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether its values lie in plain memory of the CPU: nothing is wrapped, lazy or sparse."""
    return type(tensor) is torch.Tensor and keys_of(tensor).raw_repr() == ORDINARY


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """What makes a living tensor the same values as another: () where that cannot be told.

    Contiguous ones count their elements alike in every shape, so that a view that passes on what
    it received is not measured again. The version tells in-place changes. An ordinary contiguous
    tensor, and nothing else, has four parts: address, version, elements, dtype.
    """
    if type(tensor) is torch.Tensor and keys_of(tensor).raw_repr() == ORDINARY:
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


def can_be_put(same: tuple[Any, ...]) -> bool:
    """Whether a tensor of this `identity` can be put on a shelf, if its row is known."""
    return len(same) == 4 and (same[2] > SMALL or same[3] in _MEASURED_AS_THEY_ARE)


def is_small(same: tuple[Any, ...]) -> bool:
    """Whether an `identity` is that of an ordinary tensor that waits in an arena."""
    return len(same) == 4 and same[2] <= ARENA_ELEMENTS and same[3] in _MEASURED_AS_THEY_ARE


class _How(NamedTuple):
    """How to measure: see `Shelf.add`."""

    like: int | None = None
    kept: bool = False
    recalled: bool = False
    projected: bool = True


_PLAINLY = _How()


class Measured(NamedTuple):
    """What a shelf hands over: see `Layout.rows`, `Call.measurements`, `Call.values`."""

    rows: tuple[Row, ...]
    measurements: bytes
    values: bytes

    def row(self, number: int) -> bytes:
        """A stored row: see `Shelf.put`."""
        return self.measurements[number * ROW_BYTES : (number + 1) * ROW_BYTES]


class Shelf:
    """Measurements of one event; those of other devices stay there until `fetch`.

    Keeps no tensor that it was given: small ones are copied.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._arenas: dict[torch.dtype, Arena] = {}
        self._stored: list[tuple[list[int], bytes]] = []
        """Finished rows by their numbers, those of whole batches and those recalled."""
        self._direct: dict[int, list[float]] = {}
        self._distant: dict[int, torch.Tensor] = {}
        self._small: dict[int, bytes | torch.Tensor] = {}
        # Of rows without a fingerprint what there is of their memory, in its own order.
        self._turned: dict[int, large.Found] = {}
        self._lock = threading.Lock()

    def add(
        self,
        tensor: torch.Tensor,
        same: tuple[object, ...] = (),
        *,
        like: int | None = None,
        kept: bool = False,
        recalled: bool = False,
        projected: bool = True,
    ) -> int | None:
        """Measure a tensor; its row number, or None where its values cannot be read.

        `same` is its `identity`, if that is known. `like` is the row of a tensor of the same
        memory in another order: all but the fingerprint is the same. `kept`: it will be a buffer,
        which is asked for again. `recalled`: it is a buffer; one that is unchanged since it was
        kept, by all its bytes or by checksums of them, is not measured twice. Not `projected`:
        leave out the fingerprint of a large tensor that is not contiguous, which would have to be
        copied for it.
        """
        if not same:
            same = identity(tensor)
        if is_small(same):
            return self.recall_small(same) if recalled else self.add_small(same, kept)
        if len(same) == 5 and same[2] in _MEASURED_AS_THEY_ARE:
            row = self.add_turned(tensor)
            if row is not None:
                return row
        with quietly():
            how = _How(like, kept or recalled, recalled, projected)
            return self._add(tensor, how)

    def add_small(self, same: tuple[Any, ...], kept: object = False) -> int:
        """Measure a tensor by its `identity` alone, which `is_small`."""
        address, _, elements, dtype = same
        return self._copy((elements, False, dtype is torch.float64), dtype, address, kept)

    def add_turned(self, tensor: torch.Tensor) -> int | None:
        """Measure an ordinary tensor that is not contiguous, if it is small; None if not so."""
        elements, dtype = tensor.numel(), tensor.dtype
        if elements > ARENA_ELEMENTS or (elements > SMALL and not any(tensor.stride())):
            return None
        if needs_quiet():
            return None
        straight = tensor.contiguous()
        row = (elements, False, dtype is torch.float64)
        return self._copy(row, dtype, straight.data_ptr())

    def recall_small(self, same: tuple[Any, ...]) -> int:
        """The same of a buffer: the very bytes that were measured are not measured twice."""
        address, _, elements, dtype = same
        known = arenas.recalled(address, elements, dtype)
        if known is None:
            return self.add_small(same, True)
        return self.put(same, known)

    def put(self, same: tuple[Any, ...], known: bytes) -> int:
        """Take in a tensor by its `identity`, of which the row is known: see `can_be_put`."""
        address, _, elements, dtype = same
        number = self._number((elements, dtype.is_complex, dtype in DOUBLES))
        self._stored.append(([number], known))
        if elements <= SMALL:
            self._small[number] = ctypes.string_at(address, elements * dtype.itemsize)
        return number

    def _copy(self, row: Row, dtype: torch.dtype, address: int, kept: object = False) -> int:
        with self._lock:
            arena = self._arenas.get(dtype)
            if arena is None:
                arena = self._arenas[dtype] = Arena.open(dtype)
            elif arena.used + row[0] // COLUMNS >= MOST_ROWS:
                with quietly():
                    self._close(arena)
            number = len(self.rows)
            self.rows.append(row)
            arena.copy(number, row[0], address)
            if kept:
                arena.keep(address)
        return number

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
            self._small[number] = bytes_of(flat) if flat.is_cpu else flat.clone()
        return number

    def _put_fingerprint(self, number: int, flat: torch.Tensor, projected: torch.Tensor) -> None:
        if flat.is_cpu:
            self._direct[number][FINGERPRINT:] = projected[1:].tolist()
        else:
            self._distant[number][FINGERPRINT:] = projected[1:]

    def _close(self, arena: Arena) -> None:
        """Measure what waits in an arena, which is empty then."""
        if arena.batch.table is None:
            batch = arena.measure()
            assert batch.table is not None
            self._stored.append((batch.numbers, batch.table))
            self._small.update(arena.small())

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
                self._small[number] = bytes_of(flat) if flat.is_cpu else flat.clone()
        return number

    def _number(self, row: Row) -> int:
        with self._lock:
            self.rows.append(row)
            return len(self.rows) - 1

    def _measure(self, number: int, tensor: torch.Tensor, is_complex: bool, how: _How) -> None:
        if not tensor.is_cpu:
            self._distant[number] = _measure_there(tensor.reshape(-1), is_complex)
        elif is_complex:
            self._direct[number] = large.measured(tensor).row
            _mend_complex(self._direct[number], tensor)
        else:
            self._direct[number] = self._measure_large(number, tensor, how)

    def _measure_large(self, number: int, tensor: torch.Tensor, how: _How) -> list[float]:
        memory = None if how.projected else large.in_memory_order(tensor)
        if memory is not None:
            found = self._turned[number] = large.measured(memory, recalled=True)
            return found.row[:FINGERPRINT] + large.UNPROJECTED
        turned = None if how.like is None else self._turned.get(how.like)
        if turned is not None and tensor.is_contiguous():
            if how.kept:
                large.remember(tensor, turned)
            return turned.row
        known = large.recall(tensor) if how.recalled else None
        if known is None:
            known = large.measured(tensor, how.kept)
            if how.kept:
                large.remember(tensor, known)
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
                arena.give_back()
            measured = Measured(tuple(self.rows), self._table(), self._small_bytes())
        self.__init__()  # type: ignore[misc]
        return measured

    def _table(self) -> bytes:
        """All stored rows, one after the other."""
        if len(self._stored) == 1 and len(self._stored[0][0]) == len(self.rows):
            return self._stored[0][1]
        table = bytearray(len(self.rows) * ROW_BYTES)
        for numbers, rows in (*self._stored, *self._computed()):
            for index, number in enumerate(numbers):
                row = rows[index * ROW_BYTES : (index + 1) * ROW_BYTES]
                table[number * ROW_BYTES : (number + 1) * ROW_BYTES] = row
        return bytes(table)

    def _computed(self) -> Iterator[tuple[list[int], bytes]]:
        """The rows that were measured alone, here and on other devices."""
        if self._direct:
            values = torch.tensor(list(self._direct.values()), dtype=torch.float64, device="cpu")
            yield list(self._direct), bytes_of(values.float())
        for device in {tensor.device for tensor in self._distant.values()}:
            mine = {n: t for n, t in self._distant.items() if t.device == device}
            yield list(mine), bytes_of(torch.stack(list(mine.values())).cpu())

    def _small_bytes(self) -> bytes:
        parts = []
        for number in sorted(self._small):
            kept = self._small[number]
            parts.append(kept if isinstance(kept, bytes) else bytes_of(kept.cpu()))
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
        large.add_product(folded, signs[:, row : row + rows], body)
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
        large.add_product(folded, signs[:, :rows], flat[: rows * COLUMNS].view(rows, COLUMNS))
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
