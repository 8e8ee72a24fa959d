"""Fold a graph until it can be read: by module, by repeated module, by call, by line.

`PLANS` reads from the finest picture to the coarsest; the first one that is small enough is taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from tracer.graph.contract import (
    chains_contracted,
    fans_thinned,
    lines_drawn_up,
    shared_leaves_split,
)
from tracer.graph.grouping import Plan, Tree, group
from tracer.graph.quotient import quotient
from tracer.graph.replicas import unbundled
from tracer.graph.siblings import Path

__all__ = ["COMFORTABLE", "HARD_LIMIT", "fold", "most_groups"]

COMFORTABLE = 64
"""Visible nodes of the default picture: about what fits a page with legible text."""

FEW = 26
"""Visible nodes up to which calls stand side by side and modules are opened to operations."""

MOST_LANES = 4
"""Replicas that stand side by side; more of them lie on one another."""

FEW_IN_LANES = 30
"""Visible nodes up to which replicas stand side by side: each module is there once for each."""

HARD_LIMIT = 1000
"""Visible nodes that are never exceeded, whatever was asked for: layouts take seconds from here."""

HOPELESS = 8
"""A grouping with this many times too many groups is not worth contracting."""


def fold(
    graph: nx.MultiDiGraph, *, depth: int | None = None, limit: int | None = None, skip: int = 0
) -> nx.MultiDiGraph:
    """The graph drawn together until at most `limit` nodes are visible.

    `depth`: show modules down to this level of the tree as boxes (0: the whole model is one),
    as far as 1,000 visible nodes allow. `skip` asks for a plan that many times coarser.
    """
    graph = unbundled(graph)
    tree = Tree(graph)
    plans = list(_plans(tree, _focus(graph, tree)) if depth is None else _plans_at(tree, depth))
    most = limit if limit is not None else (COMFORTABLE if depth is None else HARD_LIMIT)
    for number, plan in enumerate(plans):
        allowed = min(most, FEW) if depth is None and plan.opened else most
        allowed = min(allowed, FEW_IN_LANES) if plan.lanes else allowed
        is_last = number == len(plans) - 1
        grouping = group(graph, tree, plan, None if is_last else HOPELESS * allowed)
        if grouping is None:
            continue
        folded = _reduced(quotient(graph, grouping, plan), plan)
        if len(folded) > allowed and not is_last:
            continue
        if skip and not is_last:
            skip -= 1
            continue
        folded.graph["depth"] = plan.depth
        folded.graph["fold"] = _in_words(plan, depth, has_modules=bool(tree.deepest or tree.roots))
        return folded
    raise AssertionError("the last plan is always taken")


def most_groups(depth: int | None) -> int:
    """The groups of a picture of this depth from which on a way to fold it is given up."""
    return HOPELESS * (COMFORTABLE if depth is None else HARD_LIMIT)


def _reduced(folded: nx.MultiDiGraph, plan: Plan) -> nx.MultiDiGraph:
    folded = shared_leaves_split(chains_contracted(folded))
    return fans_thinned(folded if plan.opened else lines_drawn_up(folded))


def _focus(graph: nx.MultiDiGraph, tree: Tree) -> Path:
    """Of a slice, the way to the module of its parameter."""
    name = graph.graph.get("parameter")
    buffers = (key for key, data in graph.nodes(data=True) if data["kind"] == "buffer")
    return next((tree.paths[key] for key in buffers if graph.nodes[key]["name"] == name), ())


def _plans(tree: Tree, focus: Path) -> Iterator[Plan]:
    """From the finest to the coarsest; two replicas side by side say more than deeper modules."""
    deepest = tree.deepest
    if 1 < tree.replicas <= MOST_LANES:
        yield Plan(deepest + 1, opened=True, stacked=False, repeated=False, lanes=True)
        yield Plan(deepest + 1, opened=True, lanes=True)
        if focus:
            yield Plan(deepest, lanes=True, focus=focus)
        for depth in range(deepest, 0, -1):
            yield Plan(depth, lanes=True)
    yield Plan(deepest + 1, opened=True, stacked=False, repeated=False)
    yield Plan(deepest + 1, opened=True)
    if focus:
        yield Plan(deepest, focus=focus)
    for depth in range(deepest, 0, -1):
        yield Plan(depth)
    for depth in range(deepest, -1, -1):
        yield Plan(depth, operations="line")
    yield Plan(0, operations="function")
    yield Plan(0, operations="all")
    yield Plan(-1, operations="all")


def _plans_at(tree: Tree, depth: int) -> Iterator[Plan]:
    """The depth that was asked for; coarser ones only where it cannot be drawn."""
    opened = depth > tree.deepest
    wanted = min(depth, tree.deepest + 1)
    if 1 < tree.replicas <= MOST_LANES:
        yield Plan(wanted, opened=opened, lanes=True)
    yield Plan(wanted, opened=opened)
    yield Plan(wanted, opened=opened, operations="line")
    for shallower in range(wanted - 1, -1, -1):
        yield Plan(shallower, operations="line")
    yield Plan(0, operations="all")
    yield Plan(-1, operations="all")


def _in_words(plan: Plan, asked: int | None, has_modules: bool) -> str:
    """What was drawn together, for the line under the title."""
    parts = []
    if plan.depth < 0:
        return "everything together"
    if plan.focus:
        parts.append("opened around the parameter")
    elif asked is not None and plan.depth != asked and not plan.opened:
        parts.append(f"depth {plan.depth} instead of {asked}, to stay legible")
    elif not plan.opened and has_modules:
        parts.append(f"modules down to depth {plan.depth}" if plan.depth else "whole models")
    if plan.operations == "line":
        parts.append("operations of one line together")
    elif plan.operations != "each":
        parts.append("operations outside of modules together")
    return "; ".join(parts)
