"""The fixed random signs of fingerprints.

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

All tables here have a first row of ones, for the sum: nine rows in all.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch

from tracer.events import FINGERPRINT_LENGTH

__all__ = ["COLUMNS", "column_signs", "project_at", "project_ones", "row_signs"]

COLUMNS = 1024
"""Elements of one row of the folded tensor."""

Key = tuple[torch.dtype, torch.device]

_rows: dict[Key, torch.Tensor] = {}


def _sign_bits(name: str, number: int) -> bytes:
    """1,024 bytes of random bits; Python's Mersenne Twister is the same on every machine."""
    return random.Random(f"gradtrace {name} {number}").randbytes(COLUMNS)


def _signs(bits: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Bit k of each byte as a sign, in row k + 1."""
    numbers = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
    signs = torch.ones(1 + FINGERPRINT_LENGTH, len(bits), dtype=dtype, device="cpu")
    for k in range(FINGERPRINT_LENGTH):
        signs[1 + k] = 1 - 2 * ((numbers >> k) & 1).to(dtype)
    return signs


@lru_cache(maxsize=16)
def column_signs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """B: (9, 1024)."""
    return _signs(_sign_bits("columns", 0), dtype).to(device)


def row_signs(rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A: (9, rows); the table grows as larger tensors come."""
    signs = _rows.get((dtype, device))
    if signs is None or signs.shape[1] < rows:
        blocks = -(-rows // COLUMNS)
        bits = b"".join(_sign_bits("rows", block) for block in range(blocks))
        signs = _signs(bits, dtype)
        signs[:, 0] = 1  # a tensor of one row needs the column signs alone
        signs = _rows[dtype, device] = signs.to(device)
    return signs[:, :rows]


@lru_cache(maxsize=4096)
def project_ones(elements: int) -> tuple[float, ...]:
    """Sum and fingerprint of a tensor of ones: 9 numbers."""
    rows, rest = divmod(elements, COLUMNS)
    cpu = torch.device("cpu")
    columns = column_signs(torch.float64, cpu)
    signs = row_signs(rows + 1, torch.float64, cpu)
    total = signs[:, :rows].sum(1) * columns.sum(1) + signs[:, rows] * columns[:, :rest].sum(1)
    return tuple(total.tolist())


def project_at(positions: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Sum and fingerprint of values that lie at the given positions: (9,)."""
    rows, columns = positions // COLUMNS, positions % COLUMNS
    needed = int(rows.max()) + 1 if len(rows) else 1
    signs = row_signs(needed, flat.dtype, flat.device)[:, rows]
    return (signs * column_signs(flat.dtype, flat.device)[:, columns]) @ flat
