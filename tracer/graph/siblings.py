"""Repeated modules: twelve equal blocks in a row are one `blocks.[0-11]`.

Siblings are equal if they have the same class, the same operations from the same lines with the
same effects, parameters of the same shapes, and equal children. Only neighbours are drawn
together (0, 1, 2, ...): blocks with something else between them are steps of one chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

__all__ = ["Path", "folded_paths"]

Path = tuple[str, ...]
"""The way to a module: the label of its root, then the components of its path."""


def folded_paths(
    paths: Iterable[Path], contents: Mapping[Path, Hashable]
) -> dict[Path, tuple[Path, int]]:
    """For each path the one to show, and how many modules it stands for.

    `contents` says what each module holds itself: whatever must be equal for two to be equal.
    """
    tree = _tree(paths)
    signatures = _signatures(tree, contents)
    folded: dict[Path, tuple[Path, int]] = {(): ((), 1)}
    for parent in sorted(tree, key=len):
        shown, copies = folded[parent]
        for run in _runs(parent, tree[parent], signatures):
            last = run[0] if len(run) == 1 else f"[{run[0]}-{run[-1]}]"
            for name in run:
                folded[(*parent, name)] = ((*shown, last), copies * len(run))
    return folded


def _tree(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """Every path and every path above it, with its children."""
    children: dict[Path, dict[str, None]] = {(): {}}
    for path in paths:
        for length in range(len(path)):
            children.setdefault(path[:length], {})[path[length]] = None
        children.setdefault(path, {})
    return {path: list(names) for path, names in children.items()}


def _signatures(
    tree: Mapping[Path, list[str]], contents: Mapping[Path, Hashable]
) -> dict[Path, int]:
    """A number for each subtree; equal subtrees have the same."""
    numbers: dict[Hashable, int] = {}
    signatures: dict[Path, int] = {}
    for path in sorted(tree, key=len, reverse=True):
        below = tuple(sorted((name, signatures[*path, name]) for name in tree[path]))
        whole = (contents.get(path), below)
        signatures[path] = numbers.setdefault(whole, len(numbers))
    return signatures


def _runs(parent: Path, names: list[str], signatures: Mapping[Path, int]) -> Iterable[list[str]]:
    """The children, numbered neighbours that are equal together."""
    numbered = sorted((name for name in names if name.isdecimal()), key=int)
    yield from ([name] for name in names if not name.isdecimal())
    run: list[str] = []
    for name in numbered:
        follows = run and int(name) == int(run[-1]) + 1
        if follows and signatures[*parent, name] == signatures[*parent, run[-1]]:
            run.append(name)
            continue
        if run:
            yield run
        run = [name]
    if run:
        yield run


def own_contents(operations: Mapping[tuple[Path, Hashable], int]) -> dict[Path, Hashable]:
    """What each path holds itself, whatever its order; `operations` says how often."""
    counts: defaultdict[Path, dict[Hashable, int]] = defaultdict(dict)
    for (path, operation), times in operations.items():
        counts[path][operation] = times
    return {path: frozenset(counter.items()) for path, counter in counts.items()}
