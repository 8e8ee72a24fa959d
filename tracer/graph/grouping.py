"""Which nodes of the full graph are shown as one: a key for each, by module, call and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import networkx as nx

from tracer.graph.chunks import GATHER, SCATTER
from tracer.graph.replicas import REDUCER
from tracer.graph.siblings import Path, folded_paths, own_contents

__all__ = ["Group", "Grouping", "Plan", "Tree", "group"]

Operations = Literal["each", "line", "function", "all"]

MOST_USES = 8
"""A module without parameters that is used more often is one box after all."""

ALONE = 3
"""An operation that writes more buffers than this shows them as one leaf."""


@dataclass(frozen=True)
class Plan:
    """How much to draw together.

    Modules deeper than `depth` are part of their ancestor at that depth, and modules without
    children are boxes; with `opened` they are shown by their operations. `stacked`: calls with
    the same graph lie on one another. Replicas do as well, but with `lanes` they stand side by
    side, each in a box of its own. `operations` outside of the boxes are
    shown each, or together by line, by function, or all. With a `focus` only the modules around it
    are opened, whatever their depth. A depth of -1 knows no modules.
    """

    depth: int
    opened: bool = False
    stacked: bool = True
    repeated: bool = True
    lanes: bool = False
    operations: Operations = "each"
    focus: Path = ()


@dataclass(frozen=True)
class Group:
    """What one visible node stands for. `path` is that of the box, or of the module around it.

    `lane` is the number of its replica, where replicas stand side by side.
    """

    kind: str
    path: Path = ()
    mark: Hashable = None
    lane: int | None = None


@dataclass(frozen=True)
class Grouping:
    """The group of each node of the full graph, by its key; nodes that are not shown are absent."""

    groups: dict[str, Group]
    tree: Tree
    plan: Plan

    def shown(self, path: Path) -> Path:
        return self.tree.shown(path, self.plan)

    @property
    def visible(self) -> int:
        return len(set(self.groups.values()))


class Tree:
    """The modules of a graph: the path of each node, and the path that is shown for it."""

    def __init__(self, graph: nx.MultiDiGraph) -> None:
        self.paths: dict[str, Path] = {}
        operations: Counter[tuple[Path, Hashable]] = Counter()
        effects = _effects(graph)
        for key, data in graph.nodes(data=True):
            path = _path(data)
            self.paths[key] = path
            if data["kind"] == "node":
                what = (data["name"], data["line"], data["called"], effects.get(key))
                operations[path, ("op", data["module_class"], *what)] += data.get("times", 1)
            elif data["kind"] == "buffer" and path:
                name = data["name"].rpartition(".")[2]
                operations[path, ("buffer", name, data["shape"])] += 1
        every = set(self.paths.values())
        self.folded = folded_paths(every, own_contents(operations))
        self.plain = {path: (path, 1) for path in self.folded}
        inner = {path[:-1] for path in self.folded if path}
        self.leaves = {path for path in self.folded if path not in inner}
        self.roots = {path[0] for path in every if path}
        self.deepest = max((len(path) - 1 for path in every if path), default=0)
        self.uses = _uses(graph, self.paths, self.leaves)
        self.replicas = len(_replicas(graph))

    def shown(self, path: Path, plan: Plan) -> Path:
        return self.folded[path][0] if plan.repeated else path

    def copies(self, plan: Plan) -> dict[Path, int]:
        """How many modules each shown path stands for."""
        return dict((self.folded if plan.repeated else self.plain).values())

    def box(self, path: Path, plan: Plan) -> Path | None:
        """The path of the module that is shown as a box around an operation, if one is."""
        if not path or plan.depth < 0:
            return None
        depth = _branching(path, plan.focus) if plan.focus else plan.depth
        if len(path) - 1 >= depth and not (plan.opened and path in self.leaves):
            return self.shown(path, plan)[: depth + 1]
        if path in self.leaves and not plan.opened:
            return self.shown(path, plan)
        return None


def _branching(path: Path, focus: Path) -> int:
    """Where a path leaves the way to the focus; its length where it does not."""
    for place, (name, wanted) in enumerate(zip(path, focus, strict=False)):
        if name != wanted:
            return place
    return len(path)


def _uses(graph: nx.MultiDiGraph, paths: dict[str, Path], leaves: set[Path]) -> dict[str, int]:
    """Of modules without parameters that are called several times, which use a node belongs to.

    One activation that serves a whole block is drawn where it is used: as one box it would tie the
    block into a knot. The operations of one use hang together.
    """
    owners = {paths[key] for key, data in graph.nodes(data=True) if data["kind"] == "buffer"}
    free = leaves - owners - {()}
    tops = {
        key: key
        for key, data in graph.nodes(data=True)
        if data["kind"] == "node" and paths[key] in free
    }
    for u, v in graph.edges():
        if u in tops and v in tops and paths[u] == paths[v]:
            tops[_top(tops, v)] = _top(tops, u)
    numbers: dict[Hashable, dict[str, int]] = {}
    uses: dict[str, int] = {}
    most: dict[Path, int] = {}
    for key in tops:
        data = graph.nodes[key]
        known = numbers.setdefault((data["call"], data["replica"], paths[key]), {})
        uses[key] = known.setdefault(_top(tops, key), len(known) + 1)
        most[paths[key]] = max(most.get(paths[key], 0), uses[key])
    return {key: use for key, use in uses.items() if 1 < most[paths[key]] <= MOST_USES}


def _top(tops: dict[str, str], key: str) -> str:
    """The one that stands for all that hang together with a node; the way there gets shorter."""
    while tops[key] != key:
        tops[key] = tops[tops[key]]
        key = tops[key]
    return key


def _path(data: dict[str, Any]) -> Path:
    root, module = data.get("root"), data.get("module")
    if root is None:
        return ()
    return (root, *module.split(".")) if module else (root,)


def _replicas(graph: nx.MultiDiGraph) -> set[int]:
    numbers = {data["replica"] for _, data in graph.nodes(data=True) if data["kind"] == "node"}
    return numbers - {None}


def _effects(graph: nx.MultiDiGraph) -> dict[str, Hashable]:
    """What each node does, without numbers that differ from one tensor to the next."""
    found: dict[str, set[Hashable]] = {}
    for sender, _, data in graph.edges(data=True):
        if data["effect"] is not None:
            factor = data["factor"] if data["effect"] != "contracts" else None
            found.setdefault(sender, set()).add((data["effect"], factor))
    return {key: frozenset(effects) for key, effects in found.items()}


def group(
    graph: nx.MultiDiGraph, tree: Tree, plan: Plan, most: int | None = None
) -> Grouping | None:
    """The group of every node that the plan shows; None if there are more of them than `most`."""
    groups: dict[str, Group] = {}
    seen: Counter[Hashable] = Counter()
    alike: dict[tuple[int, int | None], Group] = {}
    accumulators: list[str] = []
    check = 2 * most if most is not None else None
    for key, data in graph.nodes(data=True):
        kind = data["kind"]
        if kind == "node" and data["buffer"] is not None:
            accumulators.append(key)
        elif kind == "node" and data["name"] == REDUCER and not plan.opened:
            continue  # it is shown as part of the buffer that it writes
        elif kind == "node" and (graph.in_degree(key) or graph.out_degree(key)):
            groups[key] = found = _of_node(tree, plan, key, data, seen, alike)
            if "times" in data and plan.operations == "each" and found.kind == "op":
                return None  # each of them would be there: see `alike.py`
        elif kind in ("root", "capture"):
            position = key.rpartition(".")[2]
            mark = position if plan.operations != "all" else None
            groups[key] = Group(kind, (), (_stack(plan, data), mark))
        if check is not None and most is not None and len(groups) >= check:
            if len(set(groups.values())) > most:
                return None
            check *= 2
    _add_buffers(graph, tree, plan, groups, accumulators)
    grouping = Grouping(groups, tree, plan)
    return None if most is not None and grouping.visible > most else grouping


def _of_node(
    tree: Tree,
    plan: Plan,
    key: str,
    data: dict[str, Any],
    seen: Counter[Hashable],
    alike: dict[tuple[int, int | None], Group],
) -> Group:
    """The group of an operation; nodes of one use with the very same attributes are `alike`."""
    use = tree.uses.get(key)
    known = alike.get((id(data), use))
    if known is not None:
        return known
    path = tree.paths[key]
    lane = data["replica"] if plan.lanes and path else None
    box = tree.box(path, plan)
    if box is not None and plan.lanes and data["name"] in (GATHER, SCATTER):
        box, path = None, ()  # at the ends of the lanes; in a box, the way through them is a circle
    line = (data["name"], data["file"], data["line"], data["called"])
    around = tree.shown(path, plan) if plan.depth >= 0 else ()
    if box is not None:
        found = Group("module", box, use if len(box) == len(path) else None, lane)
    elif plan.operations == "all":
        found = Group("op", around, None, lane)
    elif plan.operations == "function":
        found = Group("op", around, (data["file"], data["function"]), lane)
    elif plan.operations == "line":
        found = Group("op", around, line, lane)
    else:
        instance = (data["call"], data["replica"], path, line)
        seen[instance] += 1
        return Group("op", around, (_stack(plan, data), seen[instance], line), lane)
    alike[id(data), use] = found
    return found


def _stack(plan: Plan, data: dict[str, Any]) -> Hashable:
    """Calls with the same mark lie on one another."""
    if plan.operations != "each":
        return None
    return ("graph", data["structure"]) if plan.stacked else ("call", data["call"])


def _add_buffers(
    graph: nx.MultiDiGraph,
    tree: Tree,
    plan: Plan,
    groups: dict[str, Group],
    accumulators: list[str],
) -> None:
    """Buffers that one box writes are one leaf of it; what an operation writes stands alone.

    The `AccumulateGrad` node of a buffer is shown as part of it, and so is the sum over replicas.
    """
    writers: dict[str, dict[Group, None]] = {}
    parts: dict[str, list[str]] = {}
    for key in accumulators:
        buffer = graph.nodes[key]["buffer"]
        reducers = [s for s in graph.predecessors(key) if s not in groups]
        parts.setdefault(buffer, []).extend((key, *reducers))
        known = writers.setdefault(buffer, {})
        for end in (key, *reducers):
            known.update((groups[s], None) for s in graph.predecessors(end) if s in groups)
    written = Counter(
        writer for found in writers.values() for writer in {replace(w, lane=None) for w in found}
    )
    inputs = _inputs(graph, tree, writers)
    for buffer, found in writers.items():
        if buffer not in graph or not found:
            continue
        if buffer in inputs:
            groups[buffer] = Group("buffer", (), buffer)
            continue
        home = _home(tree.shown(tree.paths[buffer], plan), list(found))
        if home.kind == "module" or written[replace(home, lane=None)] > ALONE:
            groups[buffer] = Group("leaf", home.path, home, home.lane)
        else:
            name = graph.nodes[buffer]["name"].rpartition(".")[2]
            path = tree.shown(tree.paths[buffer], plan)
            groups[buffer] = Group("buffer", home.path, (path, name) if path else buffer, home.lane)
    for buffer, keys in parts.items():
        if buffer in groups:
            groups.update((key, groups[buffer]) for key in keys)


def _inputs(graph: nx.MultiDiGraph, tree: Tree, buffers: Iterable[str]) -> set[str]:
    """Tensors that a model with parameters was given: they stand beside it, if they are few."""
    written = [key for key in buffers if key in graph]
    plain = {key for key in written if not graph.nodes[key]["is_parameter"]}
    found = {key for key in plain if not tree.paths[key]}
    return found if len(plain) < len(written) and len(found) <= ALONE else set()


def _home(path: Path, writers: list[Group]) -> Group:
    """The writer that a buffer is shown with: the module that owns it, or else the first.

    What several replicas write stands outside of their lanes.
    """
    owners = [w for w in writers if w.kind == "module" and w.path == path[: len(w.path)]]
    home = (owners or writers)[0]
    is_shared = len({writer.lane for writer in writers}) > 1
    return replace(home, lane=None) if is_shared else home
