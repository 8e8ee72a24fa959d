"""Large tensors on the CPU: measured in blocks that stay in the processor's cache.

Of each block its square is taken first, as a dot product reads memory fastest (0.30 ns an element
where a maximum takes 0.42); all else then finds it in the cache, the sums and fingerprint by one
matrix product, 0.14 ns, the largest and the smallest number, 0.10 ns.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from tracer.events import FINGERPRINT_LENGTH
from tracer.record.signs import COLUMNS, column_signs, row_signs

__all__ = [
    "UNPROJECTED",
    "Found",
    "add_product",
    "in_memory_order",
    "measured",
    "recall",
    "remember",
]

BLOCK_ROWS = 128
"""Rows of a large tensor that are measured at once, half a MiB: they are read from the cache."""

BLOCK = BLOCK_ROWS * COLUMNS

STREAMED = 2**22
"""Elements from which a tensor that is not contiguous is copied piece by piece."""

CPU = torch.device("cpu")

UNPROJECTED = [math.nan] * FINGERPRINT_LENGTH
"""The fingerprint of what was not projected."""


class Found(NamedTuple):
    """A stored row, and for each block of the memory it was measured from a checksum.

    The columns of a row are those of `tracer.record.measure`.
    """

    row: list[float]
    bits: tuple[int, ...] | None


def measured(tensor: torch.Tensor, recalled: bool = False) -> Found:
    """What is found of a float32 or float64 tensor on the CPU, its memory read once."""
    sums = _Sums(tensor.dtype)
    bits: list[int] | None = [] if recalled and _has_bits(tensor) else None
    for piece in _pieces(tensor):
        sums.add(piece)
        if bits is not None:
            bits.append(_bits(piece))
    total, *fingerprint = sums.projection()
    row = [total, 0.0, *sums.norm(tensor), *fingerprint]
    return Found(row, None if bits is None else tuple(bits))


_AS_INTEGERS = {torch.float32: (torch.int32, "i", "f"), torch.float64: (torch.int64, "q", "d")}


class _Sums:
    """Norm, largest, sum and fingerprint of a tensor that comes in pieces of whole rows.

    The largest number is found among the bits taken as integers, which are in the same order as
    long as they are positive, and compared in half the time. Negative ones come out as a negative
    number, and the smallest number says more.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._integers, self._whole, self._broken = _AS_INTEGERS[dtype]
        self._square = 0.0
        self._high = -(2**63)
        self._low = math.inf
        self._row = 0
        self._columns = column_signs(dtype, CPU)
        self._folded: torch.Tensor | None = None

    def add(self, piece: torch.Tensor) -> None:
        self._square += torch.dot(piece, piece).item()
        high = int(torch.amax(piece.view(self._integers)).item())
        self._high = max(high, self._high)
        low = torch.amin(piece).item()
        self._low = low if low < self._low or low != low else self._low
        elements = piece.numel()
        rows, rest = (BLOCK_ROWS, 0) if elements == BLOCK else divmod(elements, COLUMNS)
        if rows:
            whole = piece[: rows * COLUMNS] if rest else piece
            self._fold(whole.view(rows, COLUMNS), self._signs(rows))
            self._row += rows
        if rest:
            self._fold_rest(piece[rows * COLUMNS :])

    def _signs(self, rows: int) -> torch.Tensor:
        block, first = divmod(self._row, BLOCK_ROWS)
        if first == 0 and rows <= BLOCK_ROWS:
            signs = _block_signs(block, self._columns.dtype)
            return signs if rows == BLOCK_ROWS else signs[:, :rows]
        last = self._row + rows
        return row_signs(last, self._columns.dtype, CPU)[:, self._row : last]

    def _fold(self, rows: torch.Tensor, signs: torch.Tensor) -> None:
        if self._folded is None and _is_precise(rows.dtype):
            self._folded = torch.mm(signs, rows)
        else:
            add_product(self._room(), signs, rows)

    def _fold_rest(self, rest: torch.Tensor) -> None:
        """The beginning of a row."""
        signs = row_signs(self._row + 1, self._columns.dtype, CPU)[:, self._row]
        self._room()[:, : rest.numel()].addr_(signs, rest)

    def _room(self) -> torch.Tensor:
        if self._folded is None:
            self._folded = torch.zeros_like(self._columns)
        return self._folded

    def projection(self) -> list[float]:
        numbers: list[float] = self._room().mul_(self._columns).sum(1).tolist()
        return numbers

    def norm(self, tensor: torch.Tensor) -> tuple[float, float, int]:
        """Norm, largest, count of what is not finite."""
        largest = self._largest()
        square = self._square
        norm = math.sqrt(square) if square >= 0 else square
        if norm == 0 == largest or 1e-15 < norm < 1e18:
            return norm, largest, 0
        # Count what is not finite; a norm whose squares left float32's range is taken in double.
        norm = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
        return norm, largest, int((~tensor.isfinite()).sum())

    def _largest(self) -> float:
        high: float = struct.unpack(self._broken, struct.pack(self._whole, self._high))[0]
        return high if high != high else max(-self._low, high) + 0.0  # no -0.0


@lru_cache(maxsize=4096)
def _block_signs(block: int, dtype: torch.dtype) -> torch.Tensor:
    """The row signs of one whole block: (9, 128), in one piece."""
    last = (block + 1) * BLOCK_ROWS
    return row_signs(last, dtype, CPU)[:, last - BLOCK_ROWS :].contiguous()


def _is_precise(dtype: torch.dtype) -> bool:
    """Whether a product of matrices is taken as precisely as it can be."""
    return dtype is torch.float64 or torch.get_float32_matmul_precision() == "highest"


def add_product(total: torch.Tensor, signs: torch.Tensor, folded: torch.Tensor) -> None:
    """total += signs @ folded, at full precision whatever the user allows for matrix products."""
    if _is_precise(folded.dtype):
        total.addmm_(signs, folded)
        return
    # mv is not subject to TF32 or bf16 shortcuts.
    total += torch.stack([torch.mv(folded.t(), row) for row in signs.contiguous()])


_recalls: dict[int, tuple[tuple[object, ...], Found]] = {}
"""By address what was measured there last: identity, and what was found. Large buffers only."""

MOST_RECALLS = 10_000


def remember(tensor: torch.Tensor, found: Found) -> None:
    if found.bits is not None and tensor.is_contiguous():
        if len(_recalls) >= MOST_RECALLS:
            _recalls.clear()
        _recalls[tensor.data_ptr()] = ((tensor._version, tensor.numel(), tensor.dtype), found)


def recall(tensor: torch.Tensor) -> Found | None:
    """What was found when a buffer was measured before, if its bits are the same.

    A pass at the speed of memory sees any change, and ends at the first block with one. The version
    alone would not do: neither `p.grad.data /= 4` counts it up, nor do collectives that write into
    the buckets of DDP, and memory is used again.
    """
    known = _recalls.get(tensor.data_ptr())
    if known is None or not tensor.is_contiguous() or not _has_bits(tensor):
        return None
    same, found = known
    if same != (tensor._version, tensor.numel(), tensor.dtype) or found.bits is None:
        return None
    pieces = torch.split(tensor.view(-1), BLOCK)
    is_same = all(_bits(p) == bits for p, bits in zip(pieces, found.bits, strict=True))
    return found if is_same else None


def _has_bits(tensor: torch.Tensor) -> bool:
    return not (tensor.is_inference() or tensor.storage_offset() % 2)


def _bits(flat: torch.Tensor) -> int:
    """The sum of the memory as integers of 64 bits."""
    if flat.dtype is torch.float32 and flat.numel() % 2:
        even = int(flat[:-1].view(torch.int64).sum()) if flat.numel() > 1 else 0
        return even + int(flat[-1:].view(torch.int32))
    return int(flat.view(torch.int64).sum().item())


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
    if tensor.is_contiguous() or tensor.numel() < STREAMED:
        flat = tensor.reshape(-1)
        yield from (flat,) if flat.numel() <= BLOCK else torch.split(flat, BLOCK)
        return
    rest: list[torch.Tensor] = []
    waiting = 0
    for part in _slices(tensor):
        rest.append(part)
        waiting += part.numel()
        if waiting >= BLOCK:
            flat = torch.cat(rest) if len(rest) > 1 else rest[0]
            whole = waiting - waiting % COLUMNS
            yield from torch.split(flat[:whole], BLOCK)
            rest, waiting = [flat[whole:]], waiting - whole
    if waiting:
        yield torch.cat(rest)


def _slices(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A large tensor that is not contiguous, copied slice by slice along its first dimension."""
    each = max(16, BLOCK // max(1, tensor[0].numel()))
    for part in torch.split(tensor, each):
        if part.dim() == 2 and part.stride(0) == 1:
            # Two copies: of runs of memory, then a transposition, for which torch has a fast path.
            part = part.t().contiguous().t()
        yield part.contiguous().view(-1)
