"""Whose gradients the tensors of an exchange are: a bucket, a `.grad`, a copy of some."""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tracer.record.modules import Modules
from tracer.record.operations import Slot
from tracer.record.quiet import plain
from tracer.record.shards import Place, place_of, within

__all__ = ["Bucket", "Owned", "Owners", "address_of", "pieces_without_owner"]


def address_of(tensor: torch.Tensor) -> int:
    """Where its memory begins; a sparse tensor, which has several, stands for itself."""
    return tensor.data_ptr() if tensor.layout is torch.strided else -id(tensor)


class Owned(NamedTuple):
    """Elements of a tensor and what they are: the part of `Piece` that is known beforehand.

    `shape` and `strides` say how the gradient lies in memory where not row by row.
    """

    number: int
    tensor: torch.Tensor
    at: int
    elements: int
    content: str = ""
    buffer: int | None = None
    place: Place | None = None
    found: str = ""
    peer: int | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def values(self) -> torch.Tensor:
        """The elements, in the order in which the parameter counts them."""
        if self.strides:
            inside = self.tensor.storage_offset() + self.at
            return self.tensor.as_strided(self.shape, self.strides, inside)
        if self.elements == self.tensor.numel():
            return self.tensor
        return self.tensor.reshape(-1)[self.at : self.at + self.elements]


@dataclass(frozen=True)
class Share:
    """A gradient, or its place in a bucket, in memory."""

    address: int
    elements: int
    item: int
    buffer: int
    content: str
    place: Place | None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.address + self.elements * self.item


@dataclass(frozen=True)
class Bucket:
    """A flat tensor in which a wrapper exchanges several gradients.

    `is_copied`: a hook is there, which may exchange a copy of it instead (in half precision), or
    the gradients are sparse, and made anew each time.
    """

    wrapper: int
    number: int
    address: int
    elements: int
    item: int
    shares: tuple[Share, ...]
    is_copied: bool = False

    @property
    def end(self) -> int:
        return self.address + self.elements * self.item


class Owners:
    """Finds the gradients that lie in a tensor, by its memory.

    The memory of gradients moves: the index is made anew when it does not find a tensor, once
    between two calls of `forget`, and what it finds is looked at again.
    """

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._buckets: dict[int, tuple[Bucket, ...]] = {}
        self._shares: list[Share] = []
        self._addresses: list[int] = []
        self._leaves: dict[int, weakref.ref[torch.Tensor]] = {}
        self._is_fresh = False

    def put_buckets(self, owner: int, buckets: Sequence[Bucket]) -> None:
        """The buckets of a wrapper (its `id`), in place of those that it had."""
        self._buckets[owner] = tuple(buckets)

    def forget(self) -> None:
        """Gradients may lie elsewhere from now on."""
        self._is_fresh = False

    def bucket_of(self, tensor: torch.Tensor, stands_in: bool) -> tuple[Bucket | None, str]:
        """The bucket that a tensor is, is a copy of, or stands in for, and how that was told."""
        address, elements = address_of(tensor), tensor.numel()
        buckets = [bucket for owned in self._buckets.values() for bucket in owned]
        for bucket in buckets:
            if bucket.address <= address < bucket.end and address > 0 and tensor.is_contiguous():
                return bucket, "memory"
        alike = [
            bucket
            for bucket in buckets
            if (bucket.is_copied or stands_in) and bucket.elements == elements
        ]
        return (alike[0], "size") if len(alike) == 1 else (None, "")

    def of(
        self, slots: Iterable[Slot], in_backward: bool, stands_in: bool = False
    ) -> tuple[list[Owned], Bucket | None]:
        """What the slots hold, as far as it is known, and the bucket if they are one.

        A copy of a bucket is recognised by its size only in a backward call: hooks make them there.
        `stands_in`: a rank that has no batch left takes part with zeros (Join).
        """
        owned: list[Owned] = []
        found_in: Bucket | None = None
        for slot in slots:
            bucket, how = self.bucket_of(slot.tensor, stands_in)
            if bucket is not None and (how == "memory" or in_backward or stands_in):
                found_in = bucket
                owned += _pieces_of_bucket(slot, bucket, how)
            else:
                owned += self._by_memory(slot) or self._by_values(slot) or [_without_owner(slot)]
        return owned, found_in

    def _by_values(self, slot: Slot) -> list[Owned]:
        """The gradients that were copied into a flat tensor, one after the other.

        Compared on the CPU only: elsewhere it would wait for the device.
        """
        tensor = slot.tensor
        is_flat = tensor.layout is torch.strided and tensor.is_contiguous() and tensor.is_cpu
        if not is_flat or slot.elements < 2 or slot.elements != tensor.numel():
            return []
        shares = [share for share in self._shares if share.content == "gradient"]
        shares.sort(key=lambda share: share.buffer)
        for ordered in (shares, shares[::-1]):
            for run in _runs_of(ordered, slot.elements):
                found = self._copies(slot, run)
                if found:
                    return found
        return []

    def _copies(self, slot: Slot, shares: list[Share]) -> list[Owned]:
        """The run of gradients, if the slot has their values."""
        flat, at, owned = slot.tensor.reshape(-1), 0, []
        for share in shares:
            reference = self._leaves.get(share.buffer)
            leaf = reference() if reference is not None else None
            held = None if leaf is None or leaf.grad is None else plain(leaf.grad)
            part = flat[at : at + share.elements]
            if held is None or held.dtype != flat.dtype or held.numel() != share.elements:
                return []
            if not torch.equal(held.reshape(-1), part):
                return []
            owned.append(
                Owned(
                    slot.number, slot.tensor, at, share.elements, "gradient", share.buffer,
                    share.place, "values", slot.peer,
                )
            )  # fmt: skip
            at += share.elements
        return owned

    def _by_memory(self, slot: Slot) -> list[Owned]:
        """The parts of known gradients, or of the parameters themselves, that a slot is."""
        tensor = slot.tensor
        if tensor.layout is not torch.strided or not slot.elements:
            return []
        found = self._lying_in(slot)
        if not found and not self._is_fresh:
            self._learn()
            found = self._lying_in(slot)
        return [owned for share in found for owned in _common(slot, share)]

    def _lying_in(self, slot: Slot) -> list[Share]:
        item = slot.tensor.element_size()
        first = slot.tensor.data_ptr() + slot.at * item
        last = first + slot.elements * item
        begin = max(bisect_right(self._addresses, first) - 1, 0)
        end = bisect_left(self._addresses, last)
        return [
            share
            for share in self._shares[begin:end]
            if share.end > first and share.item == item and self._is_there(share)
        ]

    def _is_there(self, share: Share) -> bool:
        reference = self._leaves.get(share.buffer)
        leaf = reference() if reference is not None else None
        if leaf is None:
            return False
        held = leaf.grad if share.content == "gradient" else leaf
        inside = None if held is None else plain(held)
        return inside is not None and inside.data_ptr() == share.address

    def _learn(self) -> None:
        shares = []
        self._leaves.clear()
        for number, leaf in self._modules.known_leaves():
            self._leaves[number] = weakref.ref(leaf)
            for content, held in (("parameter", leaf), ("gradient", leaf.grad)):
                share = None if held is None else _share_of(held, number, content)
                if share is not None:
                    shares.append(share)
        self._shares = sorted(shares, key=lambda share: share.address)
        self._addresses = [share.address for share in self._shares]
        self._is_fresh = True


def _runs_of(shares: list[Share], elements: int) -> Iterator[list[Share]]:
    """Every run of neighbours that has so many elements together."""
    first, held = 0, 0
    for last, share in enumerate(shares):
        held += share.elements
        while held > elements:
            held -= shares[first].elements
            first += 1
        if held == elements:
            yield shares[first : last + 1]


def _share_of(held: torch.Tensor, buffer: int, content: str) -> Share | None:
    inside = plain(held)
    if inside is None or inside.layout is not torch.strided or not inside.numel():
        return None
    shape, strides = tuple(inside.shape), tuple(inside.stride())
    is_plain = inside.is_contiguous()
    if not is_plain and not torch.ops.aten.is_non_overlapping_and_dense(inside):
        return None
    return Share(
        address=inside.data_ptr(),
        elements=inside.numel(),
        item=inside.element_size(),
        buffer=buffer,
        content=content,
        place=place_of(held),
        shape=() if is_plain else shape,
        strides=() if is_plain else strides,
    )


def _pieces_of_bucket(slot: Slot, bucket: Bucket, how: str) -> list[Owned]:
    if how == "memory":
        return [owned for share in bucket.shares for owned in _common(slot, share)]
    return [
        Owned(
            slot.number, slot.tensor, (share.address - bucket.address) // bucket.item,
            share.elements, "gradient", share.buffer, share.place, how, slot.peer, share.shape,
            share.strides,
        )
        for share in bucket.shares
    ]  # fmt: skip


def _common(slot: Slot, share: Share) -> list[Owned]:
    """What a slot and a share have in common, if anything that can be said."""
    first = slot.tensor.data_ptr() + slot.at * share.item
    begin, end = max(first, share.address), min(first + slot.elements * share.item, share.end)
    elements = (end - begin) // share.item
    if elements <= 0:
        return []
    at = (begin - slot.tensor.data_ptr()) // share.item
    skipped = (begin - share.address) // share.item
    is_all = elements == share.elements
    if share.strides and not is_all:
        return []
    place = share.place if is_all else within(share.place, skipped, elements)
    if place is None and not is_all:
        return []
    return [
        Owned(
            slot.number, slot.tensor, at, elements, share.content, share.buffer, place, "memory",
            slot.peer, share.shape, share.strides,
        )
    ]  # fmt: skip


def pieces_without_owner(slots: Iterable[Slot], content: str = "") -> list[Owned]:
    """Slots of which nothing else is known."""
    return [_without_owner(slot, content) for slot in slots]


def _without_owner(slot: Slot, content: str = "") -> Owned:
    return Owned(slot.number, slot.tensor, slot.at, slot.elements, content, peer=slot.peer)
