"""What a backward call left in the buffers, for a step that comes straight after it.

NOTE [Straight to the step]
A gradient may be written to without a trace: `p.grad.data /= 4` counts up no version, nor does a
program in C that has its address. So a step reads again what the call before it left; of GPT-2
small that is half a GB. It need not where nothing came between. `loss.backward()` followed at once
by `optimizer.step()` is such a place, and can be told: both are called by one frame of the script,
which between the two calls does nothing but load names (its bytecode says so, and that nobody jumps
in between); around them are only functions of torch that are known to do nothing else; ours is the
first of the hooks before a step; nothing was noted since; and the `.grad` is the tensor that it
was, by address and version. Anything else, and all is read as always.
"""

from __future__ import annotations

import dis
import os
import threading
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch.optim import optimizer as optimizers

__all__ = ["Left", "Straight"]

LOADS = frozenset(["CACHE", "EXTENDED_ARG", "KW_NAMES", "NOP", "POP_TOP", "PRECALL", "PUSH_NULL"])
"""Instructions beside `LOAD_...` that only prepare a call, or drop what one returned."""

_TORCH = os.path.dirname(torch.__file__)
BACKWARD = frozenset(
    os.path.join(_TORCH, *p) for p in (["_tensor.py"], ["autograd", "__init__.py"])
)
STEP = frozenset(
    os.path.join(_TORCH, "optim", name) for name in ("optimizer.py", "lr_scheduler.py")
)
"""Files of torch with what stands between the script and the engine, or the hooks of a step."""

MOST_PLACES = 1024


class Left(NamedTuple):
    """The content of one buffer as a call left it: its `identity`, its stored row."""

    same: tuple[Any, ...]
    row: bytes


class _Last(NamedTuple):
    """A backward call that ended: whose frame, where in it, which thread, after how many events."""

    frame: int
    code: CodeType
    at: int
    thread: int
    events: int
    left: dict[int, Left]


class Straight:
    """Remembers the last backward call until its step."""

    def __init__(self) -> None:
        self._last: _Last | None = None
        self._judged: dict[tuple[int, int, int], tuple[CodeType, bool]] = {}

    def leave(self, frame: FrameType | None, events: int, left: dict[int, Left]) -> None:
        """A call ends that was made from this frame, as the last of so many events."""
        user = _around(frame, BACKWARD)
        if user is None:
            self._last = None
        else:
            at, thread = user.f_lasti, threading.get_ident()
            self._last = _Last(id(user), user.f_code, at, thread, events, left)

    def arrive(self, frame: FrameType | None, events: int, hook: object) -> dict[int, Left]:
        """What is in the buffers still, as a step's hook is called from this frame; once only."""
        last, self._last = self._last, None
        user = _around(frame, STEP)
        if last is None or user is None or not _is_first(hook):
            return {}
        here = (id(user), user.f_code, threading.get_ident(), events)
        if here != (last.frame, last.code, last.thread, last.events):
            return {}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return {}  # an exchange that nobody waits for writes when it likes
        return last.left if self._leads(user.f_code, last.at, user.f_lasti) else {}

    def _leads(self, code: CodeType, first: int, last: int) -> bool:
        """`is_straight`, worked out once for each place; to hash code would take microseconds."""
        known = self._judged.get((id(code), first, last))
        if known is None or known[0] is not code:
            if len(self._judged) >= MOST_PLACES:
                self._judged.clear()
            known = self._judged[id(code), first, last] = (code, is_straight(code, first, last))
        return known[1]


def _around(frame: FrameType | None, files: frozenset[str]) -> FrameType | None:
    """The first frame outward that is not of one of these files."""
    while frame is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return frame


def _is_first(hook: object) -> bool:
    hooks: dict[int, Any] = optimizers._global_optimizer_pre_hooks
    return bool(hooks) and next(iter(hooks.values())) == hook


def is_straight(code: CodeType, first: int, last: int) -> bool:
    """Whether the call at `last` follows that at `first`, and on the way names are loaded only.

    The numbers are `f_lasti`: anywhere within the instruction, its caches included.
    """
    instructions = list(dis.get_instructions(code))
    one, other = (_index(instructions, place) for place in (first, last))
    between = instructions[one + 1 : other]
    called = instructions[other]
    return (
        one < other
        and called.opname.startswith("CALL")
        and not called.is_jump_target
        and all(not i.is_jump_target and _only_loads(i.opname) for i in between)
    )


def _index(instructions: list[dis.Instruction], place: int) -> int:
    return max(index for index, known in enumerate(instructions) if known.offset <= place)


def _only_loads(name: str) -> bool:
    return name in LOADS or name.startswith("LOAD_")
