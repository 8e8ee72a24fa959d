"""The module, replica and call that an operation belongs to, and what parameters are called.

Nothing is hooked: the frames of `Module.__call__` on the stack say which module is at work, and the
variables of the user's frames say what the outermost ones are called.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn

from tracer.events import Buffer, Module, Part
from tracer.record.groups import Groups
from tracer.record.journal import Journal, shape_of
from tracer.record.shards import (
    flat_parts,
    part_held,
    place_of,
    placements_of,
    sharded_originals,
    whole_name,
)

__all__ = ["Modules", "variables"]


@contextmanager
def variables(frame: FrameType) -> Iterator[Mapping[str, Any]]:
    """The local variables of a frame, none of them kept alive by our looking.

    Up to Python 3.12 the dict that `f_locals` makes stays with a function's frame, and would keep
    the graph of one iteration until the function ends. Emptied it keeps nothing; but if the script
    has called `locals()` itself the dict is the script's too (one more reference) and stays.
    """
    found = frame.f_locals
    yield found
    is_snapshot = bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED) and type(found) is dict
    if is_snapshot and sys.getrefcount(found) <= 4:
        found.clear()


class _Seats:
    """Ids for things that come and go: a new one takes the seat of a dead one alike.

    A loss module or an input made anew in each iteration is the same fact each time, so that the
    structure of the graph repeats. Two that live at once have an id each, and so have two that
    follow one another inside one backward call (`round` counts these): their books are kept apart.
    """

    def __init__(self) -> None:
        self.round = 0
        self._taken: dict[Hashable, list[tuple[weakref.ref[Any], int]]] = {}

    def take(self, description: Hashable, thing: object) -> tuple[Hashable, int]:
        """A key for the journal."""
        seats = self._taken.setdefault(description, [])
        mine = (weakref.ref(thing), self.round)
        for number, (holder, since) in enumerate(seats):
            if holder() is thing or (holder() is None and since != self.round):
                seats[number] = mine
                return description, number
        seats.append(mine)
        return description, len(seats) - 1


class Modules:
    """Numbers modules as they are first seen at work, and names the buffers they own."""

    call_code = nn.Module._wrapped_call_impl.__code__

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.groups = Groups(journal)
        self._originals: dict[int, tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor]]] = {}
        self._ids: dict[int, tuple[weakref.ref[nn.Module], int]] = {}
        self._roots: dict[int, weakref.ref[nn.Module]] = {}
        self._parameters: dict[int, tuple[weakref.ref[torch.Tensor], int, str]] = {}
        self._buffers: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._variables: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._seats = _Seats()
        self._taken: set[str] = set()

    def next_round(self) -> None:
        """Called as an outermost backward call begins: see `_Seats`."""
        self._seats.round += 1

    def of_call(self, frame: FrameType, users: list[FrameType]) -> int | None:
        """The id of the module whose `__call__` runs in this frame."""
        module = frame.f_locals.get("self")
        if not isinstance(module, nn.Module):
            return None
        known = self._find(module)
        return self._meet(frame, users) if known is None else known

    def _find(self, module: nn.Module) -> int | None:
        known = self._ids.get(id(module))
        return known[1] if known is not None and known[0]() is module else None

    def _meet(self, frame: FrameType, users: list[FrameType]) -> int | None:
        """A module seen for the first time: number the whole tree that it stands in."""
        chain = list(_modules_around(frame))
        module, outermost = chain[0], chain[-1]
        if not _is_copy(module) or self._find(outermost) is None:
            names, root = _holder(outermost, users) or ((), outermost)
            self._register(root, self._free(names))
        for copy in reversed(chain):  # the only one of a DataParallel runs in the caller's thread
            if _is_copy(copy) and self._find(copy) is None:
                self._register(copy, "")
        if self._find(module) is None:  # made on the fly, no attribute of anything
            self._register(module, "")
        return self._find(module)

    def _free(self, names: tuple[str, ...]) -> str:
        """The innermost variable, unless it is taken: of two nets passed to one function as
        `model` the second is called what its caller calls it."""
        free = [name for name in names if name not in self._taken]
        name = next(iter(free or names), "")
        self._taken.add(name)
        return name

    def _register(self, root: nn.Module, variable: str) -> None:
        replica = _replica_number(root)
        if replica is not None:
            variable = self._known_as(root, "")
        root_id: int | None = None
        for path, module in tree_of(root):
            if path and self._find(module) is not None:
                continue
            kind = type(module).__qualname__
            number = self._number(module, root_id, path, kind, variable, replica)
            root_id = number if root_id is None else root_id
            self._ids[id(module)] = (weakref.ref(module), number)
            if replica is None:
                self._known_as(module, variable)
        assert root_id is not None
        self._roots[root_id] = weakref.ref(root)
        self._name_parameters(root, root_id)

    def _known_as(self, module: nn.Module, variable: str) -> str:
        """What was first said to be the variable of a module, by it or by one of its copies.

        Copies for DataParallel share with their original the very dict of forward hooks.
        """
        hooks = vars(module).get("_forward_hooks")
        if type(hooks) is not OrderedDict:
            return variable
        known = self._variables.get(id(hooks))
        if known is None or known[0]() is not hooks:
            known = self._variables[id(hooks)] = (weakref.ref(hooks), variable)
        return known[1]

    def _number(
        self,
        module: nn.Module,
        root: int | None,
        path: str,
        kind: str,
        variable: str,
        replica: int | None,
    ) -> int:
        devices = len(module.device_ids) if isinstance(module, nn.DataParallel) else None
        seat = self._seats.take(("module", root, path, kind, variable, replica, devices), module)
        return self._journal.intern(
            Module,
            seat,
            lambda id: Module(
                id, id if root is None else root, path, kind, variable, replica, devices
            ),
        )

    def _name_parameters(self, root: nn.Module, root_id: int) -> None:
        for path, module in tree_of(root):
            for own, parameter in module._parameters.items():
                known = self._parameters.get(id(parameter))
                if parameter is not None and (known is None or known[0]() is not parameter):
                    name = f"{path}.{own}" if path else own
                    self._parameters[id(parameter)] = (weakref.ref(parameter), root_id, name)

    def number(self, module: nn.Module, users: list[FrameType]) -> int:
        """The id of a module, called or not."""
        known = self._find(module)
        if known is None:
            names, root = _holder(module, users) or ((), module)
            self._register(root, self._free(names))
            known = self._find(module)
        assert known is not None
        return known

    def known_leaves(self) -> list[tuple[int, torch.Tensor]]:
        """Every living leaf that has a buffer."""
        found = [(number, reference()) for reference, number in list(self._buffers.values())]
        return [(number, leaf) for number, leaf in found if leaf is not None]

    def _learn_originals(self) -> None:
        """What FSDP2 has gathered, from what."""
        for reference in list(self._roots.values()):
            root = reference()
            tree = () if root is None else (module for _, module in tree_of(root))
            for gathered, original in sharded_originals(tree):
                self._originals[id(gathered)] = (weakref.ref(gathered), weakref.ref(original))
                known = self._parameters.get(id(gathered))
                if known is not None and known[0]() is gathered:
                    # The module holds one or the other, and they are called alike.
                    self._parameters.setdefault(
                        id(original), (weakref.ref(original), known[1], known[2])
                    )

    def holder(self, leaf: torch.Tensor) -> torch.Tensor:
        """The tensor whose `.grad` the optimizer reads: of what FSDP2 gathers, this rank's part."""
        known = self._originals.get(id(leaf))
        if known is None or known[0]() is not leaf:
            return leaf
        original = known[1]()
        return leaf if original is None else original

    def buffer(self, leaf: torch.Tensor, users: list[FrameType]) -> int:
        """The id of the buffer of a leaf tensor."""
        known = self._buffers.get(id(leaf))
        if known is not None and known[0]() is leaf:
            return known[1]
        self._learn_originals()
        root, name = self._name(leaf, users)
        if not name and hasattr(leaf, "_fqns"):
            name = "_flat_param"  # FSDP1 takes it off its module while the parameters are in use
        original = self.holder(leaf)
        if original is not leaf:
            number = self.buffer(original, users)
            self._buffers[id(leaf)] = (weakref.ref(leaf), number)
            return number
        fields = (
            name,
            shape_of(leaf),
            str(leaf.dtype).removeprefix("torch."),
            str(leaf.device),
            root,
            isinstance(leaf, nn.Parameter),
            _parts(leaf, name),
            placements_of(leaf, self.groups),
        )
        seat = self._seats.take(("buffer", *fields), leaf)
        number = self._journal.intern(Buffer, seat, lambda id: Buffer(id, *fields))
        self._buffers[id(leaf)] = (weakref.ref(leaf), number)
        return number

    def _name(self, leaf: torch.Tensor, users: list[FrameType]) -> tuple[int | None, str]:
        for attempt in range(2):
            if self.holder(leaf) is not leaf:
                return None, ""  # it is called what its original is called
            known = self._parameters.get(id(leaf))
            if known is not None and known[0]() is leaf:
                return self._owner(known[1], known[2]), known[2]
            if attempt == 0:
                self._refresh(users)
        return None, _variable(leaf, users)

    def _refresh(self, users: list[FrameType]) -> None:
        """Parameters may be replaced, and modules be used without being called."""
        for root_id, reference in list(self._roots.items()):
            root = reference()
            if root is not None:
                self._name_parameters(root, root_id)
        self._learn_originals()
        for name, module in _modules_in_sight(users):
            if self._find(module) is None:
                self._register(module, self._free((name,) if name else ()))

    def _owner(self, root_id: int, name: str) -> int:
        """The id of the module that holds the parameter; the root's where it has none."""
        root = self._roots[root_id]()
        if root is None:
            return root_id
        try:
            found = self._find(root.get_submodule(name.rpartition(".")[0]))
        except AttributeError:
            return root_id
        return root_id if found is None else found


def _parts(leaf: torch.Tensor, name: str) -> tuple[Part, ...]:
    """The part of a sharded parameter that this rank holds; () where it holds it whole."""
    flat = flat_parts(leaf)
    if flat:
        return flat
    held = part_held(leaf)
    if held is not None:
        return (held,)
    place = place_of(leaf)
    if place is None:
        return ()
    local: torch.Tensor = leaf._local_tensor  # type: ignore[attr-defined]
    return (Part(whole_name(name), shape_of(leaf), place.start, local.numel(), *place[1:]),)


def _modules_around(frame: FrameType | None) -> Iterator[nn.Module]:
    """The modules at work, innermost first."""
    while frame is not None:
        if frame.f_code is Modules.call_code:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module):
                yield module
        frame = frame.f_back


def _is_copy(module: nn.Module) -> bool:
    """Whether DataParallel made it."""
    return bool(getattr(module, "_is_replica", False))


def tree_of(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module and all below it, with their paths, each once.

    As `named_modules` gives them; but that one is the script's to replace, with another signature
    or with work of its own (torchrl's loss modules do it for parameters).
    """
    stack: list[tuple[str, nn.Module]] = [("", root)]
    seen: set[int] = set()
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        for name, child in reversed(list(module._modules.items())):
            if child is not None:
                stack.append((f"{path}.{name}" if path else name, child))


def _replica_number(root: nn.Module) -> int | None:
    """The number of a copy that DataParallel made, by its device; None for an original.

    A replica holds no parameters, but remembers under which names it held them.
    """
    if not _is_copy(root):
        return None
    for _, module in tree_of(root):
        held = (*vars(module).get("_former_parameters", {}).values(), *module.buffers(False))
        for tensor in held:
            if isinstance(tensor, torch.Tensor):
                return int(tensor.device.index or 0)
    return torch.cuda.current_device() if torch.cuda.is_available() else None  # it holds no tensors


def _named_values(frame: FrameType) -> Iterator[tuple[str, Any]]:
    """Variables of a frame, then the attributes of its `self`, then what short containers hold."""
    with variables(frame) as found:
        named = [(name, value) for name, value in found.items() if not name.startswith("__")]
    owner = next((value for name, value in named if name == "self"), None)
    yield from named
    attributes = getattr(owner, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(owner, nn.Module):
        yield from [(name, value) for name, value in attributes.items() if isinstance(name, str)]


def _modules_in_sight(users: Iterable[FrameType]) -> Iterator[tuple[str, nn.Module]]:
    """Modules in the user's variables; one whose own method is running has no name there."""
    for frame in users:
        for name, value in _named_values(frame):
            if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
                yield ("" if _runs_method_of(value, frame) else name), value


def _runs_method_of(value: object, frame: FrameType) -> bool:
    method = inspect.getattr_static(type(value), frame.f_code.co_name, None)
    return getattr(method, "__code__", None) is frame.f_code


def _holder(module: nn.Module, users: list[FrameType]) -> tuple[tuple[str, ...], nn.Module] | None:
    """The largest module in the user's variables that has this one inside, and its names there."""
    best: tuple[int, nn.Module] | None = None
    names: list[str] = []
    for name, candidate in _modules_in_sight(users):
        if best is not None and candidate is best[1]:
            names.append(name)
            continue
        members = [member for _, member in tree_of(candidate)]
        if any(member is module for member in members) and (best is None or len(members) > best[0]):
            best, names = (len(members), candidate), [name]
    return None if best is None else (tuple(name for name in names if name), best[1])


def _variable(leaf: torch.Tensor, users: Iterable[FrameType]) -> str:
    """What the script calls a tensor: "w", "self.w" as "w", "weights[0]"."""
    inside = ""
    for frame in users:
        for name, value in _named_values(frame):
            if value is leaf:
                return name
            inside = inside or _place(name, value, leaf)
    return inside


def _place(name: str, value: Any, leaf: torch.Tensor) -> str:
    if type(value) in (list, tuple) and len(value) <= 1000:
        return next((f"{name}[{i}]" for i, item in enumerate(value) if item is leaf), "")
    if type(value) is dict and len(value) <= 1000:
        return next((f"{name}[{key!r}]" for key, item in list(value.items()) if item is leaf), "")
    return ""
