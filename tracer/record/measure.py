"""A tensor as the trace keeps it: sum, norm, largest, non-finite, fingerprint, small values.

NOTE [Fingerprints]
The fingerprint of a tensor g of n elements, numbered in logical (row-major) order, is

    f_k(g) = sum over i of A_k[i // 1024] * B_k[i % 1024] * g_i,      k = 1 .. 8

with fixed random signs A and B, the same for every run, rank and machine. It is linear, so that
fingerprints of contributions add up to that of their sum, and that of c * g is c times that of g.
Each f_k has mean 0 and variance |g|^2 over the choice of signs: two different gradients agree in
all eight only by a coincidence of float precision. The signs are a product over (row, column) of
the tensor folded to 1024 columns, so that one matrix product reads the memory once for the sum
(signs all +1) and all eight components. (AMS sketches: Alon, Matias, Szegedy, STOC 1996.)
A complex tensor counts as twice as many real elements.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from tracer.events import FINGERPRINT_LENGTH, ROW_WIDTH, SMALL

__all__ = ["Measured", "Shelf", "is_transformed", "plain", "quietly"]

COLUMNS = 1024
"""Elements of one row of the folded tensor."""

CHUNK = 256
"""Measurements that one chunk of memory takes."""

UNFOLDED = 4096
"""Up to so many elements the signs are kept multiplied out: one operation instead of five."""

# Columns of a chunk while measuring: sum and fingerprint lie together, as one product makes them.
SUM, IMAGINARY, NORM, LARGEST, NONFINITE = 0, 9, 10, 11, 12
AS_STORED = [SUM, IMAGINARY, NORM, LARGEST, NONFINITE, *range(1, 1 + FINGERPRINT_LENGTH)]


def _sign_bits(name: str, number: int) -> bytes:
    """1,024 bytes of random bits; Python's Mersenne Twister is the same on every machine."""
    return random.Random(f"gradtrace {name} {number}").randbytes(COLUMNS)


@lru_cache(maxsize=8)
def _column_signs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """B, with a first row of ones for the sum: (9, 1024)."""
    bits = torch.frombuffer(bytearray(_sign_bits("columns", 0)), dtype=torch.uint8)
    signs = torch.ones(1 + FINGERPRINT_LENGTH, COLUMNS, dtype=dtype, device="cpu")
    for k in range(FINGERPRINT_LENGTH):
        signs[1 + k] = 1 - 2 * ((bits >> k) & 1).to(dtype)
    return signs.to(device)


class _RowSigns:
    """A, with a first row of ones for the sum: (9, rows), grown as larger tensors come."""

    def __init__(self) -> None:
        self._signs: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def __call__(self, rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        signs = self._signs.get((dtype, device))
        if signs is None or signs.shape[1] < rows:
            signs = self._make(-(-rows // COLUMNS), dtype).to(device)
            self._signs[dtype, device] = signs
        return signs[:, :rows]

    @staticmethod
    def _make(blocks: int, dtype: torch.dtype) -> torch.Tensor:
        bits = torch.frombuffer(
            bytearray(b"".join(_sign_bits("rows", block) for block in range(blocks))),
            dtype=torch.uint8,
        )
        signs = torch.ones(1 + FINGERPRINT_LENGTH, len(bits), dtype=dtype, device="cpu")
        for k in range(FINGERPRINT_LENGTH):
            signs[1 + k] = 1 - 2 * ((bits >> k) & 1).to(dtype)
        signs[:, 0] = 1  # a tensor of one row needs the column signs alone
        return signs


_row_signs = _RowSigns()


@lru_cache(maxsize=8)
def _unfolded_signs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A_k * B_k for the first elements, with a first row of ones for the sum: (9, 4096)."""
    rows = _row_signs(UNFOLDED // COLUMNS, dtype, device)
    return (rows[:, :, None] * _column_signs(dtype, device)[:, None, :]).reshape(-1, UNFOLDED)


def plain(tensor: torch.Tensor) -> torch.Tensor | None:
    """The ordinary tensor that holds the values, or None where they cannot be read.

    None: under functorch transforms (`torch.func`), fake and meta tensors, subclasses with a
    dispatch of their own whose values lie elsewhere. Measuring must not call into a subclass: that
    of a DTensor would communicate.
    """
    if is_transformed(tensor):
        return None
    if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
        inside = getattr(tensor, "_virtual_values", None)  # on a virtual GPU: tracer.devices
        if inside is None:
            inside = getattr(tensor, "_local_tensor", None)  # DTensor: this rank's part
        if inside is None and tensor.is_nested:
            inside = getattr(tensor, "_values", None)  # jagged: its values, packed
        if inside is not None:
            return plain(inside)
        dispatch = type(tensor).__torch_dispatch__
        if dispatch is not torch.Tensor.__torch_dispatch__ and not _is_disabled(dispatch):
            return None
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(torch.Tensor)
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return None
    return tensor.detach()


def is_transformed(tensor: torch.Tensor) -> bool:
    """Whether it stands for several values, or none yet: vmap and the other functorch transforms.

    The vmap of `is_grads_batched` is an older one than functorch's, with a wrapper of its own.
    """
    functorch = torch._C._functorch
    return bool(
        functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    )


def _is_disabled(dispatch: Any) -> bool:
    return bool(dispatch is torch._C._disabled_torch_dispatch_impl)


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether `plain` would hand it back as it is, told cheaply."""
    return (
        (type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not is_transformed(tensor)
        and not tensor.is_quantized
        and not tensor.is_nested
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Nobody sees the tensor operations inside: no grad, autocast, modes or subclasses of the user.

    Free where none is active, as in an ordinary backward.
    """
    with ExitStack() as stack:
        if torch.is_grad_enabled():
            stack.enter_context(torch.no_grad())
        if torch._C._is_any_autocast_enabled():
            stack.enter_context(torch._C._DisableAutocast())
        if torch._C._len_torch_function_stack():
            stack.enter_context(torch._C.DisableTorchFunction())
        if torch._C._len_torch_dispatch_stack():
            stack.enter_context(torch._C._DisableTorchDispatch())
        if torch._C._functorch.peek_interpreter_stack() is not None:
            stack.enter_context(temporarily_clear_interpreter_stack())
        yield


def _needs_quiet() -> bool:
    return bool(
        torch.is_grad_enabled()
        or torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


class _Row(NamedTuple):
    """Views into one row of a chunk, made once."""

    whole: torch.Tensor
    projected: torch.Tensor
    norm: torch.Tensor
    largest: torch.Tensor


class _Chunk:
    """Memory for CHUNK measurements on one device."""

    def __init__(self, device: torch.device) -> None:
        self.data = torch.zeros(CHUNK, ROW_WIDTH, dtype=torch.float32, device=device)
        self.rows = [
            _Row(row, row[: 1 + FINGERPRINT_LENGTH], row[NORM], row[LARGEST])
            for row in self.data.unbind()
        ]


class Measured(NamedTuple):
    """What a shelf hands over: see `Layout.rows`, `Call.measurements`, `Call.values`."""

    rows: tuple[tuple[int, bool, bool], ...]
    measurements: bytes
    values: bytes


class Shelf:
    """Measurements of one event; they stay on their device until `fetch`.

    Keeps no tensor that it was given: small ones (16 elements or fewer) are copied.
    """

    _spare: list[_Chunk] = []  # noqa: RUF012 - shared on purpose: chunks are used again

    def __init__(self) -> None:
        self.rows: list[tuple[int, bool, bool]] = []
        self._places: list[tuple[_Chunk, int]] = []
        self._open: dict[torch.device, tuple[_Chunk, int]] = {}
        self._small: dict[int, torch.Tensor | list[float]] = {}

    def add(self, tensor: torch.Tensor) -> int | None:
        """Measure a tensor; its row number, or None where its values cannot be read."""
        if _needs_quiet():
            with quietly():
                return self._add(tensor)
        return self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> int | None:
        if not _is_simple(tensor):
            ordinary = plain(tensor)
            if ordinary is None:
                return None
            tensor = ordinary
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor._is_zerotensor():
            tensor = tensor.clone()  # zeros without memory, as the backward of sgn sends them
        if tensor.layout is torch.sparse_coo:
            return self._add_sparse(tensor)
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        return self._add_strided(tensor)

    def _add_strided(self, tensor: torch.Tensor) -> int:
        elements, is_complex = tensor.numel(), tensor.is_complex()
        number, row = self._take(tensor, elements)
        uniform = elements > SMALL and not is_complex and not any(tensor.stride())
        if uniform:
            tensor = tensor.as_strided((1,), (1,), tensor.storage_offset())
        if is_complex:
            tensor = torch.view_as_real(tensor.resolve_conj())
        elif tensor.is_neg():
            tensor = tensor.resolve_neg()
        flat = tensor.reshape(-1)
        if flat.dtype is not torch.float32 and flat.dtype is not torch.float64:
            flat = flat.float()
        if uniform:
            _measure_uniform(flat, elements, row)
        elif elements:
            _measure(flat, row)
            if is_complex:
                self._mend_complex(flat, row)
            if elements <= SMALL:
                self._keep(number, flat)
        return number

    @staticmethod
    def _mend_complex(flat: torch.Tensor, row: _Row) -> None:
        """Parts summed apart; the largest magnitude is of complex numbers, not of their parts."""
        pairs = flat.view(-1, 2)
        parts = pairs.sum(0)
        row.whole[SUM], row.whole[IMAGINARY] = parts[0], parts[1]
        row.whole[LARGEST] = torch.linalg.vector_norm(pairs, dim=1).max()

    def _add_sparse(self, tensor: torch.Tensor) -> int:
        """A sparse gradient, measured through its rows, as the dense one would be."""
        tensor = tensor.coalesce()
        elements, values = tensor.numel(), tensor.values()
        if elements <= SMALL or tensor.is_complex():
            return self._add_strided(tensor.to_dense())
        number, row = self._take(tensor, elements)
        if values.numel() == 0:
            return number
        flat = values.reshape(-1)
        if flat.dtype is not torch.float64:
            flat = flat.float()
        _measure(flat, row)
        row.whole[1 : 1 + FINGERPRINT_LENGTH] = _project_at(_positions(tensor), flat)
        return number

    def _take(self, tensor: torch.Tensor, elements: int) -> tuple[int, _Row]:
        device = tensor.device
        chunk, place = self._open.get(device, (None, CHUNK))
        if chunk is None or place == CHUNK:
            chunk, place = self._chunk(device), 0
        self._open[device] = (chunk, place + 1)
        self._places.append((chunk, place))
        is_double = tensor.dtype in (torch.float64, torch.complex128)
        self.rows.append((elements, tensor.is_complex(), is_double))
        row = chunk.rows[place]
        row.whole.zero_()
        return len(self.rows) - 1, row

    @classmethod
    def _chunk(cls, device: torch.device) -> _Chunk:
        for index, chunk in enumerate(cls._spare):
            if chunk.data.device == device:
                return cls._spare.pop(index)
        return _Chunk(device)

    def _keep(self, number: int, flat: torch.Tensor) -> None:
        # Off the CPU the copy waits for `fetch`: reading it here would wait for the device.
        self._small[number] = flat.tolist() if flat.is_cpu else flat.clone()

    def fetch(self) -> Measured:
        """Bring everything to the CPU as bytes; waits for the devices. The shelf is empty after."""
        with quietly():
            return self._fetch()

    def _fetch(self) -> Measured:
        chunks = list(dict.fromkeys(chunk for chunk, _ in self._places))
        starts = {id(chunk): index * CHUNK for index, chunk in enumerate(chunks)}
        places = torch.tensor(
            [starts[id(chunk)] + place for chunk, place in self._places],
            dtype=torch.int64,
            device="cpu",
        )
        table = torch.zeros(0, ROW_WIDTH, dtype=torch.float32, device="cpu")
        if chunks:
            table = torch.cat([chunk.data.cpu() for chunk in chunks])[places][:, AS_STORED]
        measured = Measured(tuple(self.rows), _bytes(table), self._small_bytes())
        self._spare.extend(chunks)
        self.__init__()  # type: ignore[misc]
        return measured

    def _small_bytes(self) -> bytes:
        parts = []
        for number in sorted(self._small):
            dtype = torch.float64 if self.rows[number][2] else torch.float32
            parts.append(_bytes(torch.as_tensor(self._small[number], dtype=dtype, device="cpu")))
        return b"".join(parts)


def _bytes(tensor: torch.Tensor) -> bytes:
    """The memory of a CPU tensor, without numpy, which torch does not require."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def _project(flat: torch.Tensor) -> torch.Tensor:
    """Sum and fingerprint of a flat tensor, one pass over its memory: (9,)."""
    dtype, device, elements = flat.dtype, flat.device, flat.numel()
    if elements <= UNFOLDED:
        return torch.mv(_unfolded_signs(dtype, device)[:, :elements], flat)
    columns = _column_signs(dtype, device)
    rows, rest = divmod(elements, COLUMNS)
    signs = _row_signs(rows + 1, dtype, device)
    folded = flat[: rows * COLUMNS].view(rows, COLUMNS)
    total = (_product(signs[:, :rows], folded) * columns).sum(1)
    if rest:
        total += signs[:, rows] * torch.mv(columns[:, :rest], flat[rows * COLUMNS :])
    return total


def _product(signs: torch.Tensor, folded: torch.Tensor) -> torch.Tensor:
    """signs @ folded, at full precision whatever the user allows for matrix products."""
    if folded.dtype is torch.float64 or torch.get_float32_matmul_precision() == "highest":
        return signs @ folded
    # mv is not subject to TF32 or bf16 shortcuts.
    return torch.stack([torch.mv(folded.t(), row) for row in signs.contiguous()])


def _measure(flat: torch.Tensor, row: _Row) -> None:
    """Fill a row from a flat float32 or float64 tensor with at least one element."""
    if flat.dtype is torch.float32 and flat.numel() <= UNFOLDED:
        signs = _unfolded_signs(flat.dtype, flat.device)[:, : flat.numel()]
        torch.mv(signs, flat, out=row.projected)
    else:
        row.projected.copy_(_project(flat))
    if flat.dtype is torch.float32:
        torch.linalg.vector_norm(flat, out=row.norm)
        torch.linalg.vector_norm(flat, math.inf, out=row.largest)
    else:
        row.norm.copy_(torch.linalg.vector_norm(flat))
        row.largest.copy_(torch.linalg.vector_norm(flat, math.inf))
    if not flat.is_cpu:
        row.whole[NONFINITE] = (~flat.isfinite()).sum()
        return
    norm = row.norm.item()
    if norm == 0 or not 1e-15 < norm < 1e18:
        _measure_extreme(flat, row)


def _measure_extreme(flat: torch.Tensor, row: _Row) -> None:
    """Count what is not finite; a norm whose squares left float32's range is taken in double."""
    row.whole[NONFINITE] = (~flat.isfinite()).sum()
    row.norm.copy_(torch.linalg.vector_norm(flat, dtype=torch.float64))


@lru_cache(maxsize=4096)
def _ones(elements: int) -> torch.Tensor:
    """Sum and fingerprint of a tensor of ones, in double: (9,)."""
    rows, rest = divmod(elements, COLUMNS)
    cpu = torch.device("cpu")
    columns = _column_signs(torch.float64, cpu)
    signs = _row_signs(rows + 1, torch.float64, cpu)
    return signs[:, :rows].sum(1) * columns.sum(1) + signs[:, rows] * columns[:, :rest].sum(1)


def _measure_uniform(value: torch.Tensor, elements: int, row: _Row) -> None:
    """An expanded scalar: every element is `value`, of shape (1,)."""
    row.projected.copy_(_ones(elements).to(value.device) * value.double())
    row.norm.copy_(value.abs()[0].double() * math.sqrt(elements))
    row.largest.copy_(value.abs()[0])
    row.whole[NONFINITE] = (~value.isfinite()).sum() * elements


def _positions(tensor: torch.Tensor) -> torch.Tensor:
    """Row-major positions of the values of a coalesced sparse tensor: (nnz * dense elements,)."""
    indices, shape = tensor.indices(), tensor.shape
    place = torch.zeros(indices.shape[1], dtype=torch.int64, device=indices.device)
    for axis in range(tensor.sparse_dim()):
        place = place * shape[axis] + indices[axis]
    dense = math.prod(shape[tensor.sparse_dim() :])
    return (place[:, None] * dense + torch.arange(dense, device=indices.device)).reshape(-1)


def _project_at(positions: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """The fingerprint of values that lie at the given positions: (8,)."""
    rows, columns = positions // COLUMNS, positions % COLUMNS
    rows_needed = int(rows.max()) + 1
    row_signs = _row_signs(rows_needed, flat.dtype, flat.device)[1:, rows]
    return (row_signs * _column_signs(flat.dtype, flat.device)[1:, columns]) @ flat
