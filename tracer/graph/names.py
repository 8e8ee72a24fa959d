"""What a module and a parameter are called in a picture: their path, without the wrappers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.errors import UnknownName
from tracer.events import Buffer, Module
from tracer.tracefile import Trace

__all__ = ["Names", "Place", "matching"]

WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel"})
"""Classes that keep the user's module in their attribute `module`."""

TRANSPARENT = frozenset(
    {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_wrapped_module"}
)
"""Attributes that only a wrapper has: torch.compile, activation checkpointing, FSDP."""


@dataclass(frozen=True)
class Place:
    """Where in the module tree an operation happened.

    `root` names the outermost module, `path` is the way from there ("" for the root itself),
    `kind` is the class of the module, the innermost where wrappers share a path.
    """

    root: str
    path: str
    kind: str
    replica: int | None = None


class Names:
    """The names of the modules and buffers of one trace.

    Several roots (a generator and a discriminator) prefix the names of their parameters with the
    variable that holds the root; a single one does not.
    """

    def __init__(self, trace: Trace) -> None:
        self._modules = trace.modules
        self._originals = _originals(trace.modules)
        self._kinds = {(m.root, m.path): m.kind for m in trace.modules.values()}
        owners = {self._root_of(b) for b in trace.buffers.values()} - {None}
        self.has_several_roots = len(owners) > 1
        self._labels = self._label_roots()
        self._displayed: dict[tuple[int, str], str] = {}
        self._classes = self._innermost_classes()
        self._buffers = {b.id: self._name_buffer(b) for b in trace.buffers.values()}

    def place(self, module: int | None) -> Place | None:
        """Where the module lies, None outside of all modules."""
        found = self._modules.get(module) if module is not None else None
        if found is None:
            return None
        root = self._originals.get(found.root, found.root)
        path = self._display(found.root, found.path)
        return Place(self._labels[root], path, self._class(found.root, path), found.replica)

    def classes(self) -> dict[str, dict[str, str]]:
        """The class of every module, by the label of its root and its path."""
        found: dict[str, dict[str, str]] = {}
        for (root, path), (_, kind) in self._classes.items():
            found.setdefault(self._labels.get(root, ""), {})[path] = kind
        found.pop("", None)
        return found

    def buffer(self, id: int) -> str:
        """The name to show for a buffer; "b5" where the trace knows none."""
        return self._buffers.get(id) or f"b{id}"

    def home(self, buffer: Buffer) -> Place | None:
        """The module that holds the buffer, by its name."""
        root = self._root_of(buffer)
        if root is None:
            return None
        path = self._display(root, buffer.name.rpartition(".")[0])
        return Place(self._labels.get(root, ""), path, self._class(root, path))

    def _class(self, root: int, path: str) -> str:
        return self._classes.get((root, path), (0, ""))[1]

    def _root_of(self, buffer: Buffer) -> int | None:
        module = self._modules.get(buffer.module) if buffer.module is not None else None
        return module.root if module is not None else None

    def _label_roots(self) -> dict[int, str]:
        """The variable or class of each root, numbered where two would be called the same."""
        labels: dict[int, str] = {}
        seen: dict[str, int] = {}
        for id, module in sorted(self._modules.items()):
            if module.root != id or id in self._originals:
                continue
            name = module.variable or module.kind or "module"
            seen[name] = seen.get(name, 0) + 1
            labels[id] = name if seen[name] == 1 else f"{name}#{seen[name]}"
        return labels

    def _display(self, root: int, path: str) -> str:
        """The path without the components that wrappers add; remembered, paths repeat."""
        known = self._displayed.get((root, path))
        if known is None:
            known = ".".join(self._visible(root, path.split("."))) if path else ""
            self._displayed[root, path] = known
        return known

    def _visible(self, root: int, parts: list[str]) -> Iterable[str]:
        for place, part in enumerate(parts):
            wrapper = self._kinds.get((root, ".".join(parts[:place])), "")
            if part in TRANSPARENT or (part == "module" and wrapper in WRAPPERS):
                continue
            yield part

    def _innermost_classes(self) -> dict[tuple[int, str], tuple[int, str]]:
        """The class at each displayed path, and its depth: of several the innermost."""
        classes: dict[tuple[int, str], tuple[int, str]] = {}
        for module in self._modules.values():
            key = (module.root, self._display(module.root, module.path))
            length = _length(module)
            if key not in classes or classes[key][0] < length:
                classes[key] = (length, module.kind)
        return classes

    def _name_buffer(self, buffer: Buffer) -> str:
        root = self._root_of(buffer)
        if root is None:
            return buffer.name
        name = self._display(root, buffer.name)
        label = self._labels.get(root, "")
        return f"{label}.{name}" if self.has_several_roots and label else name


def _originals(modules: Mapping[int, Module]) -> dict[int, int]:
    """For the root of each replica, the root of which it is a copy.

    DataParallel runs its copies in threads of their own, where nothing but the copy is to be seen.
    The original is the root that has all modules of the copy, below it or below a wrapper; where
    several could be it, the one with the copy's variable, or else the first. The copies of an
    original that is not there stand together.
    """
    trees: dict[int, dict[str, str]] = {}
    for module in modules.values():
        trees.setdefault(module.root, {})[module.path] = module.kind
    found: dict[int, int] = {}
    orphans: dict[str, int] = {}
    for id, module in sorted(modules.items()):
        if module.root != id or module.replica is None:
            continue
        originals = [
            root
            for root, tree in trees.items()
            if root in modules and modules[root].replica is None and _holds(tree, trees[id])
        ]
        named = [root for root in originals if modules[root].variable == module.variable]
        original = next(iter(named or originals), None)
        if original is None:
            original = orphans.setdefault(module.kind, id)
        if original != id:
            found[id] = original
    return found


def _holds(tree: Mapping[str, str], copy: Mapping[str, str]) -> bool:
    inside = {
        path.removeprefix("module").removeprefix("."): kind
        for path, kind in tree.items()
        if path == "module" or path.startswith("module.")
    }
    return any(copy.items() <= candidate.items() for candidate in (inside, tree) if candidate)


def _length(module: Module) -> int:
    return len(module.path.split(".")) if module.path else 0


def matching(wanted: str, names: Iterable[str]) -> str:
    """The one name that is meant: the same, or the only one that ends in it.

    Raises:
        UnknownName: with slug unknown-parameter; the message lists what comes near.
    """
    known = list(dict.fromkeys(names))
    if wanted in known:
        return wanted
    ends = [name for name in known if name.endswith(f".{wanted}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UnknownName(
            "unknown-parameter",
            f"{wanted!r} can be {len(ends)} parameters ({_listed(ends)}): give more of the name",
        )
    near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.4)
    near += [name for name in known if wanted in name and name not in near]
    hint = f"near it: {_listed(near)}" if near else f"known are {_listed(known)}"
    raise UnknownName("unknown-parameter", f"no parameter is called {wanted!r}; {hint}")


def _listed(names: list[str], most: int = 6) -> str:
    if not names:
        return "none"
    shown = ", ".join(name[:80] for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
