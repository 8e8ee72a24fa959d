"""The tooltips: everything that is known of a node or an edge, in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.views import labels

__all__ = ["edge_tip", "node_tip"]

LONGEST = 120
MOST = 6

Data = Mapping[str, Any]


def node_tip(data: Data) -> str:
    """What a node of a folded graph stands for, and what it does to the gradient."""
    lines = [_headline(data)]
    if data["kind"] in ("buffer", "buffers", "proxy"):
        lines += _parameters(data)
    else:
        lines += [f"{n} × {_cut(name)}" for name, n in data["names"][:MOST] if data["nodes"] > 1]
    if data["called"]:
        lines.append(f"made by {_cut(data['called'])}()")
    lines += [f"chunks of {labels.chunks(sizes)}" for sizes in data["chunks"][:MOST]]
    if data["fan_in"] > 1:
        lines.append(f"{data['fan_in']} contributions meet here and are added")
    if data["fan_ins_inside"]:
        lines.append(f"{labels.plural(data['fan_ins_inside'], 'fan-in')} inside, each a sum")
    lines += _effects(data["effects"])
    if data["norms_in"] is not None:
        lines.append(f"norm received {labels.between(data['norms_in'])}")
    if data["norms_out"] is not None:
        lines.append(f"norm sent {labels.between(data['norms_out'])}")
    if data["hooks"]:
        lines.append(f"{labels.plural(data['hooks'], 'hook')} of the script could change it")
    lines += _places(data)
    return "\n".join(lines)


def _headline(data: Data) -> str:
    if data["kind"] == "module":
        copies = f", {data['copies']} alike" if data["copies"] > 1 else ""
        nodes = labels.plural(data["nodes"], "autograd node")
        return f"{_cut('.'.join(data['path']))}  {_cut(data['module_class'])}: {nodes}{copies}"
    if data["kind"] in ("buffers", "proxy"):
        return labels.plural(data["nodes"], "buffer")
    return _cut(data["name"] or data["kind"])


def _parameters(data: Data) -> list[str]:
    rows = list(zip(data["parameters"], data["shapes"], data["norms"], strict=True))
    lines = [
        f"{_cut(name)}  {labels.shape(shape)}  |grad| {labels.number(norm)}"
        for name, shape, norm in rows[:MOST]
    ]
    if data["nodes"] > len(lines):
        lines.append(f"… {data['nodes'] - len(lines):,} more")
    low, high = data["summed_calls"]
    if high > 1:
        calls = str(high) if low == high else f"{low} to {high}"
        lines.append(f"contributions of {calls} backward calls are added in the buffer")
    return lines


def _effects(effects: tuple[Mapping[str, Any], ...]) -> list[str]:
    words: dict[str, int] = {}
    for effect in effects:
        if effect["words"]:
            words[effect["words"]] = words.get(effect["words"], 0) + effect["times"]
    lines = [f"{_cut(text)}" + (f"  ({n} ×)" if n > 1 else "") for text, n in words.items()]
    return lines[:MOST] + ([f"… {len(lines) - MOST} more effects"] if len(lines) > MOST else [])


def _places(data: Data) -> list[str]:
    return [
        f"{_cut(line['file'])}:{line['line']}"
        + (f" in {_cut(line['function'])}" if line["function"] else "")
        for line in data["lines"][:MOST]
    ]


def edge_tip(data: Data, sender: str, receiver: str) -> str:
    """What flowed along a bundle of edges."""
    lines = [f"{_cut(sender)} → {_cut(receiver)}"]
    lines.append(labels.plural(data["count"], "contribution"))
    if data["calls"]:
        calls = ", ".join(map(str, data["calls"][:MOST]))
        lines.append(f"backward call {calls}" + (" …" if len(data["calls"]) > MOST else ""))
    lines.append(f"norm {labels.between(data['norms'])}")
    values = labels.value(data["values"])
    if values:
        lines.append(f"value {values}")
    if data["nonfinite"]:
        lines.append(f"{labels.plural(data['nonfinite'], 'element')} not finite")
    shapes = labels.listed((labels.shape(s) for s in data["shapes"]), MOST)
    lines.append(f"{shapes}  {', '.join(data['dtypes'])}")
    lines += _effects(data["effects"])
    return "\n".join(lines)


def _cut(text: str) -> str:
    return labels.clipped(text, LONGEST)
