"""DistributedDataParallel: its settings, its buckets, and whether gradients will be exchanged.

The buckets are looked up, not guessed, and again when DDP has laid them out anew, as it does after
the first iteration; it lets them be seen through `GradBucket`s only. No hook is ever registered, as
DDP would then leave the division to it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.events import Use, Wrapper
from tracer.record.instrument import Instrument
from tracer.record.journal import Journal
from tracer.record.modules import Modules
from tracer.record.owners import Bucket, Owners, Share
from tracer.record.quiet import quietly
from tracer.record.sources import Sources

__all__ = ["Wrappers"]

SETTINGS = ("gradient_as_bucket_view", "static_graph", "find_unused_parameters")


class Wrappers(Instrument):
    """Notes each forward of a DDP module, and where its gradients are gathered to be exchanged."""

    def __init__(
        self,
        journal: Journal,
        sources: Sources,
        modules: Modules,
        fail: Callable[[Exception], None],
        owners: Owners,
    ) -> None:
        super().__init__(journal, sources, modules, fail)
        self._owners = owners
        self._laid: WeakKeyDictionary[Any, tuple[object, int, list[Bucket]]] = WeakKeyDictionary()
        """Of each DDP what it was found to be, as long as its buckets stay where they are."""

    def start(self) -> None:
        begin: Callable[..., Any] = DistributedDataParallel._pre_forward

        @functools.wraps(begin)
        def _pre_forward(ddp: Any, *inputs: Any, **kwargs: Any) -> Any:
            result = begin(ddp, *inputs, **kwargs)
            if self.recording and torch.is_grad_enabled():
                self._note(ddp, sys._getframe(1))
            return result

        self._patches.replace(DistributedDataParallel, "_pre_forward", _pre_forward)

    def _note(self, ddp: Any, frame: FrameType) -> None:
        try:
            with quietly():
                hook = _hook(ddp)
                wrapper = self._wrapper(ddp, hook, self._sources.lines(frame))
                self._journal.add(
                    Use(
                        order=self._journal.order(),
                        step=self._journal.step,
                        wrapper=wrapper,
                        synchronises=bool(ddp.require_backward_grad_sync),
                        divisor=_divisor(ddp, hook),
                        source=self._sources.here(frame),
                        started=self._journal.seconds(),
                    )
                )
        except Exception as error:  # noqa: BLE001 - the tracer's fault must not stop training
            self._fail(error)

    def _wrapper(self, ddp: Any, hook: str, users: list[FrameType]) -> int:
        """The id of what DDP is now; its buckets are put where exchanges find them."""
        state = _state(ddp, hook)
        known = self._laid.get(ddp)
        if known is None or state is None or known[0] != state:
            known = (state, *self._look(ddp, hook, users))
            if known[2]:
                self._laid[ddp] = known
        _, number, buckets = known
        self._owners.put_buckets(id(ddp), buckets)
        return number

    def _look(self, ddp: Any, hook: str, users: list[FrameType]) -> tuple[int, list[Bucket]]:
        laid = [
            (
                flat,
                [
                    (self._modules.buffer(leaf, users), at, leaf)
                    for leaf, at in zip(bucket.parameters(), _offsets(bucket, flat), strict=True)
                ],
            )
            for bucket, flat in _buckets(ddp)
        ]
        fields = (
            "DDP",
            self._modules.number(ddp, users),
            self._modules.groups.number(ddp.process_group),
            tuple(tuple(buffer for buffer, _, _ in shares) for _, shares in laid),
        )
        details = _details(ddp, hook)
        number = self._journal.intern(
            Wrapper, (*fields, repr(details)), lambda id: Wrapper(id, *fields, details)
        )
        return number, [_bucket(number, n, *each, bool(hook)) for n, each in enumerate(laid)]


def _bucket(
    wrapper: int,
    number: int,
    flat: torch.Tensor,
    leaves: list[tuple[int, int, torch.Tensor]],
    is_hooked: bool,
) -> Bucket:
    is_strided = flat.layout is torch.strided
    item, address = flat.element_size(), flat.data_ptr() if is_strided else 0
    shares = tuple(
        Share(
            address + at * item, leaf.numel(), item, buffer, "gradient", None,
            *((), ()) if leaf.is_contiguous() else (tuple(leaf.shape), tuple(leaf.stride())),
        )
        for buffer, at, leaf in leaves
    )  # fmt: skip
    return Bucket(wrapper, number, address, flat.numel(), item, shares, is_hooked or not is_strided)


class _Looking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes hold of the tensors that zeros are wanted alike of, and makes none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[torch.Tensor] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.zeros_like.default:
            self.seen.append(args[0])
            return args[0]
        return function(*args, **(kwargs or {}))


def _buckets(ddp: Any) -> list[tuple[Any, torch.Tensor]]:
    """Each bucket as torch describes it, and the very tensor that will be exchanged.

    What torch offers makes a copy in zeros of every bucket; asked in this mode it makes none.
    """
    if getattr(ddp, "_use_python_reducer", False) or getattr(ddp, "reducer", None) is None:
        return []
    looking = _Looking()
    try:
        with looking:
            buckets = ddp.reducer._get_zeros_like_grad_buckets()
    except RuntimeError:  # a sparse gradient has no bucket yet
        return []
    if len(looking.seen) != len(buckets):
        return []
    return list(zip(buckets, looking.seen, strict=True))


def _offsets(bucket: Any, flat: torch.Tensor) -> list[int]:
    """Where each gradient of a bucket begins in it; a sparse one is alone in its bucket."""
    if flat.layout is not torch.strided:
        return [0] * len(bucket.parameters())
    first = bucket.buffer()
    return [
        (view.data_ptr() - first.data_ptr()) // first.element_size() for view in bucket.gradients()
    ]


def _state(ddp: Any, hook: str) -> object:
    """What may change where the buckets lie; None where that is not sure.

    They are laid out anew once, before the second forward. Under Join that may happen unseen.
    """
    is_rebuilt = getattr(ddp, "_has_rebuilt_buckets", None)
    if is_rebuilt is None or _is_joining(ddp):
        return None
    settings = tuple(getattr(ddp, name, None) for name in SETTINGS)
    return id(ddp.reducer), is_rebuilt, hook, settings, ddp.bucket_bytes_cap


def _is_joining(ddp: Any) -> bool:
    return bool(getattr(getattr(ddp, "_join_config", None), "enable", False))


def _details(ddp: Any, hook: str) -> dict[str, Any]:
    plain = {name: getattr(ddp, name, None) for name in SETTINGS}
    return {"hook": hook, **plain, "bucket_cap_mb": ddp.bucket_bytes_cap / 2**20}


def _hook(ddp: Any) -> str:
    """The communication hook; "" for the default reducer."""
    hooks = getattr(ddp, "_comm_hooks", ())
    if hooks:
        return _name(hooks[-1][0])
    return str(ddp._get_ddp_logging_data().get("comm_hook", "") or "")


def _name(hook: Any) -> str:
    inside = getattr(hook, "func", hook)
    return str(getattr(inside, "__qualname__", type(inside).__qualname__))


def _divisor(ddp: Any, hook: str) -> float | None:
    """By what the default reducer divides before it adds."""
    if hook:
        return None
    if _is_joining(ddp) and not getattr(ddp, "_divide_by_initial_world_size", True):
        return None
    return float(ddp.process_group.size())
