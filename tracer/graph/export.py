"""A graph as a file that other programs read: DOT, GraphML, JSON; and back from the last two.

Nothing is lost but what a format forbids: XML has no control characters, and they become U+FFFD.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import networkx as nx

from tracer.graph.attributes import On, type_of

__all__ = ["from_graphml", "from_json", "quoted", "to_dot", "to_graphml", "to_json"]

SCHEMA = 1
REPLACEMENT = "\ufffd"
NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(graph: nx.MultiDiGraph) -> str:
    """Node-link JSON, as d3 and networkx read it: nodes have an `id`, edges source and target.

    Tuples are lists, complex numbers maps of "re" and "im", numbers that are not finite the strings
    "NaN", "Infinity" and "-Infinity".
    """
    data = nx.node_link_data(graph, edges="edges")
    return json.dumps({"schema": SCHEMA, **_plain(data)}, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> nx.MultiDiGraph:
    """The graph that `to_json` wrote."""
    data = json.loads(text)
    data.pop("schema", None)
    graph = nx.node_link_graph(data, edges="edges")
    assert isinstance(graph, nx.MultiDiGraph)
    _restore(graph, _restored)
    return graph


def to_graphml(graph: nx.MultiDiGraph) -> str:
    """GraphML: lists and maps are strings of JSON, what is None is left out."""
    flat: nx.MultiDiGraph = nx.MultiDiGraph()
    flat.graph.update(_flat(graph.graph))
    for key, data in graph.nodes(data=True):
        flat.add_node(_text(key), **_flat(data))
    for u, v, key, data in graph.edges(keys=True, data=True):
        flat.add_edge(_text(u), _text(v), key=key, **_flat(data))
    file = io.BytesIO()
    nx.write_graphml_xml(flat, file, named_key_ids=False)
    return file.getvalue().decode()


def from_graphml(text: str) -> nx.MultiDiGraph:
    """The graph that `to_graphml` wrote; what was None is not there."""
    graph = nx.parse_graphml(text, force_multigraph=True)
    for defaults in ("node_default", "edge_default"):
        graph.graph.pop(defaults, None)
    assert isinstance(graph, nx.MultiDiGraph)
    _restore(graph, _unflattened)
    return graph


def to_dot(graph: nx.MultiDiGraph) -> str:
    """DOT source with every attribute, as text; lists and maps as JSON."""
    lines = ["digraph gradients {"]
    lines.append(f"  graph [{_listed(graph.graph)}];")
    for key, data in graph.nodes(data=True):
        lines.append(f"  {quoted(key)} [{_listed({'label': data.get('name', key), **data})}];")
    for u, v, data in graph.edges(data=True):
        lines.append(f"  {quoted(u)} -> {quoted(v)} [{_listed(data)}];")
    return "\n".join([*lines, "}"]) + "\n"


def quoted(text: str) -> str:
    """A string as DOT has it; what cannot be printed is shown as a replacement sign."""
    safe = "".join(c if c.isprintable() or c == "\n" else REPLACEMENT for c in text)
    safe = safe.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{safe}"'


def _listed(data: Mapping[str, Any]) -> str:
    shown = ((_dot_name(name), value) for name, value in data.items() if value is not None)
    return ", ".join(f"{name}={quoted(_as_text(value))}" for name, value in shown)


RESERVED = frozenset({"name", "rank", "root", "shape"})
"""Attributes that Graphviz would take for its own: they get an underscore."""


def _dot_name(name: str) -> str:
    return f"{name}_" if name in RESERVED else name


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, complex):
        return {"re": _plain(value.real), "im": _plain(value.imag)}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _restored(value: Any, is_text: bool) -> Any:
    """The value as it was before `_plain`."""
    if isinstance(value, list):
        return tuple(_restored(item, is_text) for item in value)
    if isinstance(value, dict):
        if value.keys() == {"re", "im"}:
            return complex(_restored(value["re"], False), _restored(value["im"], False))
        return {name: _restored(item, is_text) for name, item in value.items()}
    if isinstance(value, str) and not is_text:
        return NONFINITE.get(value, value)
    return value


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that GraphML can hold."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, str):
            flat[name] = _text(value)
        elif isinstance(value, (bool, int, float)):
            flat[name] = value
        elif value is not None:
            flat[name] = _text(json.dumps(_plain(value), allow_nan=False))
    return flat


def _unflattened(value: Any, is_text: bool) -> Any:
    if isinstance(value, str) and not is_text:
        return _restored(json.loads(value), is_text=False)
    return value


def _text(text: str) -> str:
    """The text without the characters that XML forbids."""
    return "".join(c if c in "\n\t" or c.isprintable() else REPLACEMENT for c in text)


def _restore(graph: nx.MultiDiGraph, restored: Any) -> None:
    view = graph.graph.get("view", "full")
    _restore_map(graph.graph, "graph", view, restored)
    for _, data in graph.nodes(data=True):
        _restore_map(data, "node", view, restored)
    for _, _, data in graph.edges(data=True):
        _restore_map(data, "edge", view, restored)


def _restore_map(data: dict[str, Any], on: On, view: str, restored: Any) -> None:
    for name, value in data.items():
        data[name] = restored(value, type_of(on, view, name) == "text")
