"""`explain --svg`: from the loss to one parameter, and what was done with its gradient then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import networkx as nx

from tracer.analysis.exact import product, said
from tracer.analysis.explain import Explanation
from tracer.analysis.history import Change, Entry
from tracer.analysis.rankaxis import world_of
from tracer.analysis.sliced import slice_of
from tracer.tracefile import Trace
from tracer.views import svg
from tracer.views.cards import Pill
from tracer.views.explain import Lines, options_text, term_effect, term_label
from tracer.views.labels import clipped, number

__all__ = ["LEAVES", "MOST_LANES", "Data", "add_lane", "add_stage", "explanation_svg", "stages_of"]

LEAVES = ("buffer", "buffers")
MOST_TERMS = 6
MOST_PILLS = 3
MOST_LANES = 3
NAME = 44

Data = dict[str, Any]


def explanation_svg(one: Explanation, trace: Trace) -> str:
    """The picture: only what this gradient passed, with its factors, down to the update.

    Raises:
        DotFailed: there is no layout program, or it fails.
    """

    def finish(folded: nx.MultiDiGraph) -> None:
        _answer(folded, one)
        changes = list(_changes(one, trace))
        if changes:
            _show_as_filled(folded, changes[0]["norm"])
        _show_hooks(folded, one)
        _continue(folded, [*changes, *_update(one, trace)])

    return svg.render(slice_of(one, trace), finish=finish)


def _answer(folded: nx.MultiDiGraph, one: Explanation) -> None:
    """The sentence under the title, instead of the step that is drawn here."""
    count = len(one.verdict.terms)
    words = f"{count} losses added" if count > 1 else clipped(one.verdict.words, 110)
    folded.graph["note"] = ";  ".join(filter(None, (f"= {words}", folded.graph["note"])))
    folded.graph["steps_taken"] = ()


def _leaf(folded: nx.MultiDiGraph) -> str | None:
    return next((key for key, d in folded.nodes(data=True) if d["kind"] in LEAVES), None)


def _show_as_filled(folded: nx.MultiDiGraph, norm: float | None) -> None:
    """The buffer before it was changed: what is read of it otherwise is what was consumed."""
    leaf = _leaf(folded)
    if leaf is not None:
        folded.nodes[leaf].update(norms_all=(norm, norm), norms=(norm,), values=None, history=())


def _show_hooks(folded: nx.MultiDiGraph, one: Explanation) -> None:
    """What hooks did to the gradient on its way: said at its end, where all of it has passed."""
    leaf = _leaf(folded)
    changed = {change.words for entry in one.ledger.history.entries for change in entry.changes}
    met = [factor for row in one.ledger.rows for factor in row.after if factor.kind == "hook"]
    pills = {
        factor: Pill("hooked", f"{factor.words}  ×  {said(factor.value)}")
        for factor in met
        if factor.words not in changed
    }
    if leaf is not None:
        folded.nodes[leaf]["hook_pills"] = tuple(pills.values())[:MOST_PILLS]


def _continue(folded: nx.MultiDiGraph, stages: list[Data]) -> None:
    """Put what came after the buffer in a row beneath it."""
    above = _leaf(folded)
    if above is None:
        return
    for place, stage in enumerate(stages):
        key, met = f"after {place}", stage.pop("met", ())
        add_stage(folded, key, stage, [above])
        for lane in met:
            add_lane(folded, key, lane)
        above = key


def add_stage(folded: nx.MultiDiGraph, key: str, stage: Data, above: Sequence[str]) -> None:
    """A box beneath others, with what enters it from each."""
    norm = stage.pop("norm")
    folded.add_node(key, **_PLAIN, **stage)
    for sender in above:
        folded.add_edge(sender, key, key=0, **_edge(norm))


def add_lane(folded: nx.MultiDiGraph, key: str, lane: Data) -> None:
    """A box beside those above, that enters the same one."""
    beside, norm = f"{key} {lane['name']}", lane["norm"]
    add_stage(folded, beside, lane, [])
    folded.add_edge(beside, key, key=0, **_edge(norm))


def _edge(norm: float | None) -> Data:
    """Of several buffers together no one norm is told."""
    return {**_PLAIN_EDGE, "norm": norm, "norms": None if norm is None else (norm, norm)}


_PLAIN: Data = {
    "nodes": 1, "calls": (), "replicas": (), "copies": 1, "called": "", "names": (), "chunks": (),
    "effects": (), "fan_in": 1, "fan_ins_inside": 0, "hooks": 0, "norms_in": None,
    "norms_out": None, "lane": None, "cluster": (), "path": (), "merged": 1, "parts": (),
}  # fmt: skip

_PLAIN_EDGE: Data = {
    "kind": "bundle", "count": 1, "calls": (), "nonfinite": 0, "shapes": (), "dtypes": (),
    "values": None, "effects": (),
}  # fmt: skip


def _changes(one: Explanation, trace: Trace) -> Iterator[Data]:
    """A stage for each change of the buffer, with the other ranks that it met."""
    for stage, change in stages_of(one, trace):
        yield {**stage, "met": _lanes(one, change, trace)}


def stages_of(one: Explanation, trace: Trace) -> Iterator[tuple[Data, Change]]:
    """A stage for each change of the buffer, with what part of the content it met."""
    entries = one.ledger.history.entries
    changes = list(dict.fromkeys(change for entry in entries for change in entry.changes))
    calls = {row.call: row.number for row in one.ledger.rows}
    for place, change in enumerate(sorted(changes, key=lambda change: change.order)):
        met = [entry for entry in entries if change in entry.changes]
        numbers = [str(calls[entry.call]) for entry in met if entry.call in calls]
        only = f", only call {', '.join(numbers)}" if len(met) < len(entries) else ""
        stage: Data = {
            "kind": "change",
            "name": clipped(f"{change.words}{only}", NAME),
            "pill": _pill(change),
            "lines": _places(change.source, trace),
            "norm": _norm_before(one, changes[place:]),
        }
        yield stage, change


def _lanes(one: Explanation, change: Change, trace: Trace) -> list[Data]:
    """What entered an exchange from each other rank; of many, the first few and how many more."""
    if change.kind != "rank-operation" or change.factor is None:
        return []
    others = [e for e in one.ledger.history.entries if e.rank not in (None, one.ledger.rank)]
    lanes = [_lane(one, entry, trace) for entry in others if change in entry.changes][:MOST_LANES]
    more = world_of(one.ledger) - 1 - len({entry.rank for entry in others[: len(lanes)]})
    if more > 0:
        is_simulated = any(shared.is_simulated for shared in one.ledger.history.shared)
        why = "taken to be equal" if is_simulated else "not drawn"
        lanes.append({"kind": "update", "name": f"… {more:,} more ranks", "texts": [why],
                      "lines": (), "norm": None})  # fmt: skip
    return lanes


def _lane(one: Explanation, entry: Entry, trace: Trace) -> Data:
    """A rank beside the one that is drawn: its call, its items and what they weigh at the loss."""
    rows = [r for r in one.ledger.rows if (r.rank, r.call) == (entry.rank, entry.call)]
    measured = entry.tensor.measured if entry.tensor is not None else None
    texts = [f"{row.items:,} items, {said(row.weight_at_loss)} each" for row in rows[:MOST_TERMS]]
    call = f", call {rows[0].number}" if rows else ""
    return {
        "kind": "update",
        "name": f"rank {entry.rank}{call}" + (": what is left over" if entry.is_rest else ""),
        "texts": texts or ["its file is missing"],
        "lines": _places(entry.source, trace),
        "norm": None if measured is None else measured.norm,
    }


def _pill(change: Change) -> Pill:
    if change.factor is None:
        return Pill("hooked", "no factor")
    return Pill("scaled", f"×  {said(change.factor)}")


def _norm_before(one: Explanation, changes: list[Change]) -> float | None:
    """The norm in front of these changes, if each multiplied all that was there."""
    if any(change.kind == "rank-operation" for change in changes):
        return _own_norm(one, changes)
    factor = product(change.factor for change in changes)
    return abs(one.ledger.norm / float(factor)) if factor and one.ledger.norm else None


def _own_norm(one: Explanation, changes: list[Change]) -> float | None:
    """What this rank has in front of an exchange, where it is a single contribution."""
    entries = one.ledger.history.entries
    own = [entry for entry in entries if entry.rank in (None, one.ledger.rank)]
    measured = own[0].tensor.measured if len(own) == 1 and own[0].tensor is not None else None
    if measured is None:
        return None
    factor = product(change.factor for change in own[0].changes if change not in changes)
    return None if factor is None else abs(measured.norm * float(factor))


def _update(one: Explanation, trace: Trace) -> Iterator[Data]:
    step, optimizer = one.ledger.step, one.optimizer
    if step is None or optimizer is None:
        return
    yield {
        "kind": "update",
        "name": f"{optimizer.kind} takes |grad| {number(one.ledger.norm)}",
        "texts": [options_text(optimizer), *_effects(one, trace)],
        "lines": _places(step.source, trace),
        "norm": one.ledger.norm,
    }


def _effects(one: Explanation, trace: Trace) -> Iterator[str]:
    """What one item of each loss moves."""
    lines, terms = Lines(trace), one.verdict.terms
    told = [term for term in terms if term_effect(one, term)]
    for term in told[:MOST_TERMS]:
        effect = term_effect(one, term)
        yield effect if len(terms) == 1 else f"{term_label(term, terms, lines)}   {effect}"
    if len(told) > MOST_TERMS:
        yield f"… {len(told) - MOST_TERMS} more losses"


def _places(source: int | None, trace: Trace) -> tuple[Data, ...]:
    found = trace.sources.get(source) if source is not None else None
    if found is None:
        return ()
    return ({"file": found.file, "line": found.line, "function": found.function, "nodes": 1},)
