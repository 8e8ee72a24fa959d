"""Every attribute of a graph, in one place: `docs/graph.md` is made of this table.

`build` makes full graphs: a node per autograd node and backward call. `fold` makes folded ones, in
which a node stands for many. A test sees to it that neither has an attribute that is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx

__all__ = ["ATTRIBUTES", "Attribute", "as_markdown", "type_of", "undocumented"]

On = Literal["graph", "node", "edge"]
View = Literal["full", "folded", "both"]
Type = Literal["text", "whole number", "number", "yes or no", "list", "map"]


@dataclass(frozen=True)
class Attribute:
    """One attribute: of what, in which view, of which kinds of nodes ("" for all)."""

    on: On
    view: View
    name: str
    type: Type
    meaning: str
    kinds: str = ""


def _rows(on: On, view: View, kinds: str, *rows: tuple[str, Type, str]) -> Iterator[Attribute]:
    for name, type, meaning in rows:
        yield Attribute(on, view, name, type, meaning, kinds)


TENSOR: tuple[tuple[str, Type, str], ...] = (
    ("shape", "list", "shape of the gradient"),
    ("dtype", "text", "its dtype"),
    ("device", "text", "its device"),
    ("elements", "whole number", "how many elements it has"),
    ("sum", "number", "their sum; complex for complex tensors"),
    ("norm", "number", "their L2 norm"),
    ("largest", "number", "the largest magnitude"),
    ("nonfinite", "whole number", "how many are NaN or infinite"),
    ("fingerprint", "list", "a fixed random projection; that of a sum is the sum of theirs"),
    ("values", "list", "all elements, where they are 16 or fewer"),
)

PLACE: tuple[tuple[str, Type, str], ...] = (
    ("file", "text", "file of the user's line that made it, seen from the folder of the run"),
    ("line", "whole number", "number of that line, 0 where it is not known"),
    ("function", "text", "function around that line"),
)

ATTRIBUTES: tuple[Attribute, ...] = (
    *_rows(
        "graph", "both", "",
        ("view", "text", "full or folded"),
        ("script", "text", "the script that was recorded"),
        ("command", "list", "the command that ran it"),
        ("status", "text", "running, finished or crashed"),
        ("rank", "whole number", "rank of the process"),
        ("world", "whole number", "number of ranks"),
        ("step", "whole number", "the optimizer step whose window this is; None without one"),
        ("steps", "whole number", "steps in the trace"),
        ("calls", "list", "the numbers of the backward calls shown, from 1"),
        ("calls_recorded", "whole number", "backward calls in the trace"),
        ("classes", "map", "for each root module, the class at each path inside it"),
        ("has_several_roots", "yes or no", "whether names begin with the variable of their root"),
        ("note", "text", "what was left out, in words"),
        ("parameter", "text", "of a slice: the parameter it leads to"),
    ),
    *_rows(
        "graph", "folded", "",
        ("steps_taken", "list", "the optimizer steps of the window, which are told, not drawn"),
        ("clusters", "list", "the opened modules, and lanes of replicas, outermost first: path, "
                             "class, copies, replicas; of a lane its number, device and share"),
        ("replicas", "list", "the replicas of DataParallel that are shown"),
        ("depth", "whole number", "how deep modules are shown"),
        ("fold", "text", "what was drawn together, in words"),
    ),
    *_rows(
        "node", "full", "",
        ("kind", "text", "node (of autograd), root, buffer, capture or step"),
        ("name", "text", "torch's name of the node; variable, parameter or class of optimizer"),
    ),
    *_rows(
        "node", "full", "node, root, capture",
        ("call", "whole number", "number of the backward call among the recorded ones, from 1"),
        ("structure", "whole number", "calls with the same number have the same graph"),
    ),
    *_rows(
        "node", "full", "node, root, capture, step",
        ("step", "whole number", "number of the step in whose window it falls, from 1"),
        *PLACE,
    ),
    *_rows(
        "node", "full", "node, buffer",
        ("root", "text", "the variable or class of the outermost module; None outside of modules"),
        ("module", "text", "path of the module inside its root, without wrappers"),
        ("module_class", "text", "class of the module"),
    ),
    *_rows(
        "node", "full", "node",
        ("index", "whole number", "number of the node in its structure"),
        ("called", "text", "the torch function that the line called"),
        ("custom", "text", "qualified name of a Python autograd.Function"),
        ("replica", "whole number", "number of the copy in DataParallel; None outside"),
        ("buffer", "text", "key of the buffer that an AccumulateGrad node writes"),
        ("ran", "yes or no", "whether the engine reached it"),
        ("hooks_before", "whole number", "hooks of the script on what it receives"),
        ("hooks_after", "whole number", "hooks of the script on what it sends"),
        ("hooks_buffer", "whole number", "hooks of the script after accumulation"),
        ("saved", "map", "what is plain to read on the node: dim, reduction, numbers"),
        ("received", "list", "for each input the gradient received, as a map like that of an edge"),
        ("norm", "number", "norm of all it received"),
        ("fan_in", "whole number", "contributions that meet at one input, the most of any"),
    ),
    *_rows(
        "node", "full", "root",
        ("order", "whole number", "place of the call among all events of the run"),
        ("entry", "text", "backward or grad"),
        ("outcome", "text", "done, or the exception that ended the call"),
        ("nested_in", "whole number", "order of the call inside which it ran"),
        ("create_graph", "yes or no", "whether the call built a graph of itself"),
        ("shape", "list", "shape of the root tensor"),
        ("values", "list", "its values, where they are few"),
        ("norm", "number", "its norm"),
    ),
    *_rows(
        "node", "full", "buffer",
        ("is_parameter", "yes or no", "an nn.Parameter, not a plain tensor"),
        ("shape", "list", "its shape"),
        ("dtype", "text", "its dtype"),
        ("device", "text", "its device"),
        ("calls", "whole number", "calls of the window that contributed"),
        ("runs", "list", "how many calls were added up between one emptying and the next"),
        ("history", "list", "the values after each call, of small buffers"),
        ("is_added_to", "yes or no", "whether it held something before the first of the calls"),
        ("norm", "number", "norm of what was read last: consumed by the step, or after a call"),
        ("values", "list", "the values read last, where they are few"),
    ),
    *_rows(
        "node", "full", "step",
        ("order", "whole number", "place of the step among all events of the run"),
        ("outcome", "text", "done, or the exception that ended it"),
        ("options", "list", "for each parameter group its options: lr, momentum, ..."),
    ),
    *_rows(
        "edge", "full", "",
        ("kind", "text", "contribution, start (of a root), accumulation (into a buffer), capture, "
                         "or consumption (by a step)"),
        ("call", "whole number", "number of the backward call"),
        ("output", "whole number", "output of the sender"),
        ("input", "whole number", "input of the receiver"),
        *TENSOR,
        ("effect", "text", "what the sender did to it: averages, sums, scales, moves, opaque, ..."),
        ("factor", "number", "by what the sender multiplied it, where that is one number"),
        ("count", "whole number", "averaged or summed over how many"),
        ("summed", "whole number", "contributions that the sender added into each element"),
        ("words", "text", "the effect in words"),
    ),
    *_rows(
        "edge", "full", "accumulation",
        ("is_fresh", "yes or no", "whether the buffer was empty, or all zero, before"),
    ),
    *_rows(
        "node", "folded", "",
        ("kind", "text", "node, chain (of operations), module, buffer, buffers (of a module), "
                         "proxy (of a shared buffer), root, capture, or more (thinned out)"),
        ("name", "text", "the most frequent name of what it stands for"),
        ("nodes", "whole number", "how many nodes of the full graph it stands for"),
        ("calls", "list", "the backward calls they belong to"),
        ("replicas", "list", "the replicas they belong to"),
        ("copies", "whole number", "how many repeated modules lie on one another"),
        ("lines", "list", "the lines of the script that made them, most frequent first"),
        ("called", "text", "the most frequent torch function that made them"),
        ("names", "list", "pairs of a name and how often it occurs"),
        ("chunks", "list", "of gather and scatter: the sizes of the chunks, where they are clear"),
        ("effects", "list", "what they do: effect, factor, count, summed, words, times"),
        ("fan_in", "whole number", "contributions that meet where gradients enter"),
        ("fan_ins_inside", "whole number", "further inputs inside at which contributions meet"),
        ("hooks", "whole number", "hooks of the script on any of them"),
        ("norms_in", "list", "smallest and largest norm that enters"),
        ("norms_out", "list", "smallest and largest norm that leaves, but into buffers"),
        ("lane", "whole number", "its replica, where replicas stand side by side"),
        ("cluster", "list", "path of the opened module around it, its root first, and its lane"),
        ("path", "list", "of a module: its own path"),
        ("merged", "whole number", "how many nodes of the folded graph were drawn together"),
        ("parts", "list", "of a chain: its operations in order"),
    ),
    *_rows(
        "node", "folded", "module",
        ("module_class", "text", "class of the module"),
        ("use", "whole number", "which use it is, of a module without parameters with several"),
    ),
    *_rows(
        "node", "folded", "buffer, buffers, proxy",
        ("parameters", "list", "their names, the first 12"),
        ("shapes", "list", "their shapes, the first 12"),
        ("norms", "list", "their norms, the first 12"),
        ("norms_all", "list", "smallest and largest norm of all"),
        ("values", "list", "the values of a single small one"),
        ("summed_calls", "list", "fewest and most calls that are added up in one of them"),
        ("emptied", "whole number", "how many times one was found empty"),
        ("history", "list", "the values after each call, of a single small one"),
        ("is_added_to", "yes or no", "whether one held something before the first of the calls"),
        ("is_parameter", "yes or no", "nn.Parameters, not plain tensors"),
        ("replicas_added", "whole number", "replicas whose gradients are added before"),
        ("of", "text", "of a proxy: key of the leaf it stands for"),
    ),
    *_rows(
        "node", "folded", "root",
        ("values", "list", "the values of each call's root"),
        ("shape", "list", "shape of the root tensor"),
        ("entry", "text", "backward or grad"),
        ("outcome", "text", "done, or the exception that ended the call"),
    ),
    *_rows(
        "edge", "folded", "",
        ("kind", "text", "bundle"),
        ("count", "whole number", "how many contributions it stands for"),
        ("calls", "list", "the backward calls they belong to"),
        ("norm", "number", "their norms together"),
        ("norms", "list", "their smallest and largest norm"),
        ("nonfinite", "whole number", "elements that are NaN or infinite"),
        ("shapes", "list", "their shapes"),
        ("dtypes", "list", "their dtypes"),
        ("values", "list", "the values of a single small one"),
        ("effects", "list", "what the senders did: effect, factor, count, summed, words, times"),
    ),
)  # fmt: skip


def type_of(on: On, view: str, name: str) -> Type | None:
    """The type of an attribute, None for one that is not documented."""
    return _TYPES.get((on, view, name))


_TYPES: dict[tuple[str, str, str], Type] = {
    (a.on, view, a.name): a.type
    for a in ATTRIBUTES
    for view in (("full", "folded") if a.view == "both" else (a.view,))
}


def undocumented(graph: nx.MultiDiGraph) -> list[str]:
    """The attributes that a graph has and the table has not, as "node root.colour"."""
    view = graph.graph.get("view", "full")
    missing: dict[str, None] = {}
    for name in graph.graph:
        if type_of("graph", view, name) is None:
            missing[f"graph {name}"] = None
    for on, items in (("node", graph.nodes(data=True)), ("edge", _edges(graph))):
        for _, data in items:
            for name in data:
                if not _is_known(on, view, data.get("kind", ""), name):
                    missing[f"{on} {data.get('kind')}.{name}"] = None
    return list(missing)


def _edges(graph: nx.MultiDiGraph) -> Iterable[tuple[object, dict[str, Any]]]:
    return ((None, data) for _, _, data in graph.edges(data=True))


def _is_known(on: str, view: str, kind: str, name: str) -> bool:
    return kind in _KINDS.get((on, view, name), ()) or "" in _KINDS.get((on, view, name), ())


_KINDS: dict[tuple[str, str, str], set[str]] = {}
for _attribute in ATTRIBUTES:
    _key = (_attribute.on, _attribute.view, _attribute.name)
    _KINDS.setdefault(_key, set()).update(_attribute.kinds.split(", "))


def as_markdown() -> str:
    """The table as it stands in the docs."""
    parts = []
    for on, view, title in SECTIONS:
        rows = [a for a in ATTRIBUTES if a.on == on and a.view == view]
        parts.append(f"### {title}\n")
        parts.append("| attribute | of | type | meaning |\n|---|---|---|---|")
        parts += [f"| `{a.name}` | {a.kinds or 'all'} | {a.type} | {a.meaning} |" for a in rows]
        parts.append("")
    return "\n".join(parts)


SECTIONS: tuple[tuple[On, View, str], ...] = (
    ("graph", "both", "The graph"),
    ("node", "full", "Nodes"),
    ("edge", "full", "Edges"),
    ("graph", "folded", "A folded graph, in addition"),
    ("node", "folded", "Nodes of a folded graph"),
    ("edge", "folded", "Edges of a folded graph"),
)
