"""What is written on each node of a picture: a few lines, and a pill for each sum and average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from tracer.views import labels
from tracer.views.metrics import width
from tracer.views.tips import node_tip

__all__ = ["Card", "Pill", "Row", "cards"]

PADDING = 8.0
TITLE = 12.0
SMALL = 10.5
PILL_HEIGHT = 16.0
NAME = 34
"""Characters of a name on a card; the tooltip has all of it."""

PATH = 22
MOST_PARTS = 9
MOST_PARAMETERS = 3

SPLITTING = ("GatherBackward", "ScatterBackward")

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Pill:
    """A coloured claim: of the kinds of `style.PILLS`."""

    kind: str
    text: str

    @property
    def width(self) -> float:
        return width(self.text, SMALL, bold=True) + 12


@dataclass(frozen=True)
class Row:
    """A row of a card: text, then pills, and something in grey at the right end.

    `indent` is where the pills begin, so that those of several rows stand in one column.
    """

    text: str = ""
    pills: tuple[Pill, ...] = ()
    beside: str = ""
    size: float = SMALL
    bold: bool = False
    muted: bool = False
    indent: float = 0.0

    @property
    def text_width(self) -> float:
        return width(self.text, self.size, self.bold) + 6 if self.text else 0.0

    @property
    def width(self) -> float:
        pills = sum(pill.width + 4 for pill in self.pills)
        beside = 8 + width(self.beside, SMALL - 0.5) if self.beside else 0
        return max(self.text_width, self.indent) + pills + beside

    @property
    def height(self) -> float:
        return max(self.size + 4 if self.text else 0, PILL_HEIGHT + 3 if self.pills else 0)


@dataclass(frozen=True)
class Card:
    """One node of the picture, from what happens on the way in to what happens on the way out."""

    face: str
    rows: tuple[Row, ...]
    tip: str = ""
    layers: int = 1
    width: float = field(init=False)
    height: float = field(init=False)

    def __post_init__(self) -> None:
        across = max((row.width for row in self.rows), default=0) + 2 * PADDING
        height = sum(row.height for row in self.rows) + 2 * self.margin
        object.__setattr__(self, "width", math.ceil(max(across, 30)))
        object.__setattr__(self, "height", math.ceil(height))

    @property
    def margin(self) -> float:
        """Above and below the rows."""
        return 2.5 if self.face == "chain" else 5.0

    @property
    def pills(self) -> tuple[Pill, ...]:
        return tuple(pill for row in self.rows for pill in row.pills)

    @property
    def title(self) -> str:
        return next((row.text for row in self.rows if row.text), "")


def cards(graph: nx.MultiDiGraph) -> dict[str, Card]:
    """A card for each node of a folded graph."""
    return {
        key: MAKERS[data["kind"]](graph, {**data, "key": key})
        for key, data in graph.nodes(data=True)
    }


def _root(graph: nx.MultiDiGraph, data: Data) -> Card:
    name = labels.clipped(data["name"] or "root", NAME)
    values = [labels.value(value) for value in data["values"] if value]
    text = f"{name} = {labels.listed(values)}" if values else name
    verb = "autograd.grad" if data["entry"] == "grad" else "backward"
    calls = len(data["calls"])
    again = f"{calls} {verb} calls" if calls > 1 else f"{verb} call {data['calls'][0]}"
    if data["outcome"] != "done":
        again += f", {data['outcome']}"
    rows = (
        Row(text, size=TITLE, bold=True),
        Row(again, beside=_line(graph, data["lines"]), muted=True),
    )
    return Card("root", rows, tip=node_tip(data), layers=min(calls, 3))


def _operations(graph: nx.MultiDiGraph, data: Data) -> Card:
    """One operation, or several in a row with what each of them does."""
    parts = _parts(data)
    entering = _entering(data)
    is_quiet = not entering and not any(_part_pills(part) for part in parts)
    if is_quiet:
        text = _part_names(parts) + (_times(parts[0]) if len(parts) == 1 else "")
        return Card("chain", (Row(text, muted=True),), tip=node_tip(data))
    rows = [Row(pills=entering)] if entering else []
    if len(parts) == 1:
        rows += _only_part(graph, parts[0])
    else:
        rows += _part_rows(graph, parts)
    opaque = any(effect["effect"] == "opaque" for effect in data["effects"])
    face = "opaque" if opaque else "node"
    return Card(face, tuple(rows), node_tip(data), layers=_layers(data))


def _parts(data: Data) -> tuple[Data, ...]:
    """The operations of a node in their order; quiet ones that follow one another as one."""
    parts: tuple[Data, ...] = data.get("parts") or (data,)
    joined: list[Data] = []
    for part in parts:
        if joined and not _part_pills(part) and not _part_pills(joined[-1]):
            joined[-1] = {
                **joined[-1],
                "names": (*joined[-1]["names"], *part["names"]),
                "chunks": (*joined[-1]["chunks"], *part["chunks"]),
            }
        else:
            joined.append(part)
    return tuple(joined)


def _part_names(parts: Iterable[Data]) -> str:
    names = dict.fromkeys(
        _operator(name, part["chunks"]) for part in parts for name, _ in part["names"]
    )
    return labels.clipped(labels.listed(names), NAME + 8)


def _operator(name: str, chunks: Sequence[Sequence[int]]) -> str:
    """The name of an operation; with the sizes of the chunks where it has any: Gather 2 + 2."""
    sizes = labels.listed((labels.chunks(each) for each in chunks), 2)
    return " ".join(filter(None, (labels.operator(name), sizes if name in SPLITTING else "")))


def _part_pills(part: Data) -> tuple[Pill, ...]:
    hooked = (Pill("hooked", labels.plural(part["hooks"], "hook")),) if part["hooks"] else ()
    return (*_claims(part["effects"]), *hooked)


def _only_part(graph: nx.MultiDiGraph, part: Data) -> list[Row]:
    name = _part_names((part,)) + _times(part)
    title = Row(name, beside=_line(graph, part["lines"]), size=TITLE, bold=True)
    return [title, *([Row(pills=_part_pills(part))] if _part_pills(part) else [])]


def _part_rows(graph: nx.MultiDiGraph, parts: tuple[Data, ...]) -> list[Row]:
    """A row for each operation, the pills in one column; of very many the middle is left out."""
    shown = parts if len(parts) <= MOST_PARTS else (*parts[: MOST_PARTS - 2], parts[-1])
    rows = []
    for part in shown:
        pills = _part_pills(part)
        line = _line(graph, part["lines"]) if pills else ""
        rows.append(
            Row(_part_names((part,)) + _times(part), pills, line, bold=bool(pills), muted=not pills)
        )
    indent = max((row.text_width for row in rows if row.pills), default=0.0)
    rows = [replace(row, indent=indent) if row.pills else row for row in rows]
    if len(shown) < len(parts):
        rows.insert(-1, Row(f"… {len(parts) - len(shown)} more", muted=True))
    return rows


def _module(graph: nx.MultiDiGraph, data: Data) -> Card:
    times = f"  × {data['copies']}" if _is_run(data["path"]) else ""
    kind = labels.clipped(data["module_class"], NAME)
    if data["use"]:
        kind += f", use {data['use']}"
    if len(data["replicas"]) > 1:
        kind += f"  on {len(data['replicas'])} replicas"
    title = Row(_path(data["path"]) + times, beside=kind, size=TITLE, bold=True)
    norms = f"|g|  {labels.between(data['norms_in'])}"
    if data["norms_out"] is not None:
        norms += f"  →  {labels.between(data['norms_out'])}"
    pills = tuple(p for p in _claims(data["effects"]) if p.kind in ("averaged", "scaled"))
    entering = _entering(data)
    rows = [
        *([Row(pills=entering)] if entering else []),
        title,
        Row(norms, muted=True),
        *_inside(data),
        *([Row(pills=pills)] if pills else []),
    ]
    return Card("module", tuple(rows), node_tip(data), _layers(data))


def _path(path: tuple[str, ...]) -> str:
    """As much of a module's path as there is room for, from its end."""
    inner = path[1:] or path
    name = ".".join(inner)
    while len(name) > PATH and len(inner) > 1:
        inner = inner[1:]
        name = "… ." + ".".join(inner)
    return labels.clipped(name, NAME)


def _is_run(path: tuple[str, ...]) -> bool:
    return bool(path) and path[-1].startswith("[")


def _inside(data: Data) -> tuple[Row, ...]:
    """How many sums lie hidden in a box."""
    calls = max(len(data["calls"]), 1) * data["copies"]
    sums = data["fan_ins_inside"] / calls
    if not sums:
        return ()
    return (Row(f"Σ inside:  {labels.plural(round(sums) or 1, 'fan-in')}", muted=True),)


def _leaf(graph: nx.MultiDiGraph, data: Data) -> Card:
    names = list(dict.fromkeys(_own_name(name) for name in data["parameters"]))
    alike = data["nodes"] == data["copies"] * len(names)
    if data["kind"] == "buffer":
        beside = labels.shape(data["shapes"][0])
        rows = [Row(labels.clipped(names[0], NAME), (), beside, size=TITLE, bold=True)]
    elif len(names) <= MOST_PARAMETERS and (alike or data["nodes"] <= MOST_PARAMETERS):
        times = f"  × {data['copies']}" if data["copies"] > 1 else ""
        text = labels.clipped(", ".join(names), NAME) + times
        rows = [Row(text, beside=_grad(data), bold=True)]
    else:
        what = "parameter" if data["is_parameter"] else "tensor"
        rows = [Row(labels.plural(data["nodes"], what), beside=_grad(data), bold=True)]
    if data["kind"] == "buffer":
        rows.append(Row(_grad(data), muted=True))
    pills = (*data.get("hook_pills", ()), *_products(graph, data), *_leaf_sums(data))
    above = [Row(pills=pills)] if pills else []
    return Card("input" if _is_input(graph, data) else "buffer", (*above, *rows), node_tip(data))


def _is_input(graph: nx.MultiDiGraph, data: Data) -> bool:
    """Whether it is a plain tensor beside parameters."""
    return not data["is_parameter"] and any(
        other.get("is_parameter") for _, other in graph.nodes(data=True)
    )


def _products(graph: nx.MultiDiGraph, data: Data) -> tuple[Pill, ...]:
    """How many terms each element of a gradient is the sum of, as its sender says."""
    effects = [
        effect for *_, edge in graph.in_edges(data["key"], data=True) for effect in edge["effects"]
    ]
    terms = sorted({effect["summed"] for effect in effects if (effect["summed"] or 0) > 1})
    if not terms or data["kind"] == "buffer":
        return ()
    return (Pill("products", f"Σ  {labels.listed((f'{n:,}' for n in terms), 2)} each"),)


def _grad(data: Data) -> str:
    history = data["history"]
    if len(history) > 1 and all(len(values) == 1 for values in history):
        steps = [labels.value(values) for values in history]
        return ".grad  " + "  →  ".join(steps[:4] + (["…", steps[-1]] if len(steps) > 4 else []))
    values = labels.value(data["values"], 3)
    if values:
        return f".grad  {values}"
    return f"|grad|  {labels.between(data['norms_all'])}"


def _leaf_sums(data: Data) -> tuple[Pill, ...]:
    """The uses of a shared parameter, and the calls, that are added in the buffer."""
    pills = []
    if data["replicas_added"] > 1:
        pills.append(Pill("summed", f"Σ  {data['replicas_added']} replicas"))
    if data["fan_in"] > 1:
        pills.append(Pill("summed", f"Σ  {data['fan_in']} uses"))
    if data["is_added_to"]:
        pills.append(Pill("summed", "Σ  onto what was there"))
    low, high = data["summed_calls"]
    if high > 1:
        count = str(high) if low == high else f"{low}–{high}"
        pills.append(Pill("summed", f"Σ  {count} calls"))
    elif data["emptied"] > 1:
        pills.append(Pill("note", f"{data['emptied']} calls, emptied between"))
    return tuple(pills)


def _proxy(graph: nx.MultiDiGraph, data: Data) -> Card:
    name = labels.clipped(data["parameters"][0], NAME)
    if data["nodes"] > 1:
        name = labels.plural(data["nodes"], "parameter")
    return Card("proxy", (Row(f"↳ also into {name}", muted=True),), tip=node_tip(data))


def _capture(graph: nx.MultiDiGraph, data: Data) -> Card:
    title = Row(data["name"], beside=_line(graph, data["lines"]), size=TITLE, bold=True)
    rows = (title, Row("returned by autograd.grad", muted=True))
    return Card("capture", rows, tip=node_tip(data))


def _more(graph: nx.MultiDiGraph, data: Data) -> Card:
    return Card("more", (Row(f"… {data['merged']:,} more", muted=True),), tip=node_tip(data))


def _change(graph: nx.MultiDiGraph, data: Data) -> Card:
    """Something that happened to a buffer as a whole."""
    title = Row(data["name"], (data["pill"],), _line(graph, data["lines"]), TITLE, bold=True)
    return Card("change", (title,), tip=node_tip(data))


def _update(graph: nx.MultiDiGraph, data: Data) -> Card:
    """What an optimizer does with a buffer, and what one item moves in the end."""
    title = Row(data["name"], beside=_line(graph, data["lines"]), size=TITLE, bold=True)
    return Card("root", (title, *(Row(text, muted=True) for text in data["texts"])), node_tip(data))


MAKERS = {
    "change": _change,
    "update": _update,
    "root": _root,
    "node": _operations,
    "chain": _operations,
    "module": _module,
    "buffer": _leaf,
    "buffers": _leaf,
    "proxy": _proxy,
    "capture": _capture,
    "more": _more,
}


def _entering(data: Data) -> tuple[Pill, ...]:
    """The contributions that meet at a node are added there."""
    return (Pill("summed", f"Σ  {data['fan_in']} contributions"),) if data["fan_in"] > 1 else ()


def _claims(effects: Iterable[Mapping[str, Any]]) -> tuple[Pill, ...]:
    """A pill for each kind of sum, average and factor, with the numbers that occur."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for effect in effects:
        for kind, pattern, text in _claimed(effect):
            found.setdefault((kind, pattern), {})[text] = None
    pills = [
        Pill(kind, pattern.format(labels.listed(texts, 2)))
        for (kind, pattern), texts in found.items()
    ]
    order = ("averaged", "summed", "scaled", "products", "opaque")
    return tuple(sorted(pills, key=lambda pill: order.index(pill.kind)))


def _claimed(effect: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """What one effect says: the kind of pill, its text with a place for the number, the number."""
    kind, count = effect["effect"], effect["count"]
    factor = labels.factor(effect["factor"])
    if kind == "averages":
        yield "averaged", "mean  {}", _share(effect)
    elif kind == "loss-reduction" and effect["words"].startswith(("mean", "weighted")):
        weighted = "weighted " if effect["words"].startswith("weighted") else ""
        yield "averaged", weighted + "mean  {}", _share(effect)
    elif _is_sum_of_items(effect):
        yield "summed", "Σ  over {} items", f"{count:,}" if count else "?"
    elif kind == "sums":
        yield "summed", "Σ  of {}", f"{count:,}"
    elif kind == "reduces":
        across = "ranks" if "rank" in effect["words"] else "replicas"
        yield "summed", f"Σ  of {{}} {across}", f"{count:,}" if count else "?"
    elif kind == "scatter-adds":
        yield "products", "Σ  {}", "where indices repeat"
    elif kind == "scales":
        yield "scaled", "×  {}", factor
    elif kind == "contracts" and (effect["summed"] or 0) > 1:
        yield "products", "Σ  of {} products", f"{effect['summed']:,}"
    elif kind == "opaque":
        yield "opaque", "{}", "opaque"
    elif kind != "contracts" and (effect["summed"] or 0) > 1:
        yield "summed", "Σ  of {}", f"{effect['summed']:,}"


def _is_sum_of_items(effect: Mapping[str, Any]) -> bool:
    """The loss was summed: each item weighs 1."""
    if effect["effect"] == "loss-reduction":
        return str(effect["words"]).startswith("sum")
    return bool(effect["effect"] == "broadcasts" and effect["count"] != 1)


def _share(effect: Mapping[str, Any]) -> str:
    """What one of the averaged elements weighs: 1/n."""
    factor, count = effect["factor"], effect["count"]
    if factor and count and math.isclose(factor * count, 1, rel_tol=1e-6):
        return f"1/{count}"
    return f"1/{labels.number(1 / factor)}" if factor else "1/?"


def _times(data: Data) -> str:
    """How many operations of one kind lie on one another, in one call and copy."""
    if len(data["names"]) != 1:
        return ""
    each = data["nodes"] / max(len(data["calls"]), 1) / data["copies"]
    return f" × {round(each):,}" if each >= 1.5 else ""


def _layers(data: Data) -> int:
    return 3 if _is_run(data["path"]) or len(data["replicas"]) > 1 else 1


def _line(graph: nx.MultiDiGraph, lines: Sequence[Data]) -> str:
    if not lines:
        return ""
    script = graph.graph.get("script", "")
    text = labels.short_line(lines[0]["file"], lines[0]["line"], script)
    return labels.clipped(text, NAME)


def _own_name(parameter: str) -> str:
    return parameter.rpartition(".")[2]
