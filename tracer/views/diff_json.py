"""What `diff --json` prints: docs/diff.md says what each key means."""

from __future__ import annotations

from typing import Any

from tracer.analysis.diff.difference import Difference, Exhibit
from tracer.analysis.diff.origin import Origin
from tracer.analysis.diff.partners import Partners
from tracer.analysis.diff.relation import Cosine
from tracer.analysis.diff.sides import Side
from tracer.analysis.diff.stages import Cell, Parting, Stage
from tracer.analysis.diff.timeline import Comparison, Match
from tracer.analysis.diff.updates import Update
from tracer.views.diff_headline import headline
from tracer.views.json_text import exact_document

__all__ = ["SCHEMA", "difference_document"]

SCHEMA = 1
"""Of the JSON document; goes up when a key changes its meaning or goes away."""

Document = dict[str, Any]


def difference_document(found: Difference) -> Document:
    """Everything that the text says, and the numbers of every parameter."""
    return {
        "schema": SCHEMA,
        "a": _side(found.a),
        "b": _side(found.b),
        "answer": headline(found),
        "is_different": not found.is_none,
        "parameters": _partners(found.partners),
        "moments": [_moment(moment) for moment in found.moments],
        "shown": None if found.shown is None else list(found.shown.numbers),
        "gradients": [] if found.shown is None else [_match(m) for m in found.shown.matches],
        "steps": [_update(update) for update in found.updates],
        "origins": [_origin(origin, found) for origin in found.origins],
        "ledgers": [_exhibit(exhibit, found) for exhibit in found.exhibits],
        "settings": [{"name": s.name, "a": s.a, "b": s.b} for s in found.settings],
    }


def _side(side: Side) -> Document:
    info = side.trace.info
    return {
        "trace": str(side.trace.path), "step": side.step, "command": list(info.command),
        "script": info.script, "world": info.world,
    }  # fmt: skip


def _partners(found: Partners) -> Document:
    return {
        "pairs": [{"a": p.name_a, "b": p.name_b, "matched_by": p.how} for p in found.pairs],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "reshaped": [
            {"name": name, "a": list(a), "b": list(b)} for name, a, b in found.reshaped
        ],
    }  # fmt: skip


def _moment(moment: Comparison) -> Document:
    return {
        "a": moment.numbers[0], "b": moment.numbers[1],
        "kind": "step" if moment.is_step else "filling",
        "is_proportional": moment.is_proportional, "is_same": moment.is_same,
        "factors": [
            {"factor": exact_document(cluster.factor), "parameters": len(cluster.members)}
            for cluster in moment.clusters
        ],
        "compared": len(moment.compared), "parameters": len(moment.matches),
        "cosine": _cosine(moment.cosine),
    }  # fmt: skip


def _match(match: Match) -> Document:
    relation = match.relation
    is_compared = relation.kind in ("multiple", "near", "different")
    return {
        "a": match.pair.name_a, "b": match.pair.name_b, "relation": relation.kind,
        "factor": exact_document(relation.factor) if relation.kind == "multiple" else None,
        "apart": relation.off if is_compared else None,
        "cosine": _cosine(relation.cosine),
        "norm_a": relation.norms[0], "norm_b": relation.norms[1],
    }  # fmt: skip


def _update(update: Update) -> Document:
    one = update.updates
    return {
        "kind": one.kind, "optimizer_a": one.kinds[0], "optimizer_b": one.kinds[1],
        "is_same": one.is_same, "ratio": exact_document(one.ratio),
        "lr_a": one.lr[0], "lr_b": one.lr[1],
        "decay_a": one.decay[0], "decay_b": one.decay[1],
        "momentum_a": one.momentum[0], "momentum_b": one.momentum[1],
        "options": [{"name": name, "a": a, "b": b} for name, a, b in one.options],
        "parameters": [match.pair.name_a for match in update.members],
    }  # fmt: skip


def _origin(origin: Origin, found: Difference) -> Document:
    return {
        "kind": origin.kind, "words": origin.words,
        "a": _place(found.a, origin.source_a), "b": _place(found.b, origin.source_b),
    }  # fmt: skip


def _exhibit(exhibit: Exhibit, found: Difference) -> Document:
    return {
        "parameters": [match.pair.name_a for match in exhibit.members],
        "of": exhibit.match.pair.name_a,
        "answer_a": exhibit.verdicts[0].words, "answer_b": exhibit.verdicts[1].words,
        "explains": exhibit.explains,
        "losses": [_parting(parting, found) for parting in exhibit.partings],
    }  # fmt: skip


def _parting(parting: Parting, found: Difference) -> Document:
    first = parting.first
    return {
        "first": None if first is None else first.name,
        "ratio": exact_document(parting.ratio),
        "unit_weight_a": exact_document(parting.a.unit_weight), "unit_a": parting.a.unit,
        "unit_weight_b": exact_document(parting.b.unit_weight), "unit_b": parting.b.unit,
        "stages": [_stage(stage, found) for stage in parting.stages],
        "weighings": [
            {"call": w.call, "rank": w.rank, "items": w.items,
             "a": exact_document(w.a), "b": exact_document(w.b), "ratio": exact_document(w.ratio)}
            for w in parting.weighings
        ],
        "spreads": None if parting.spreads is None else list(parting.spreads),
        "unknown": parting.unknown,
    }  # fmt: skip


def _stage(stage: Stage, found: Difference) -> Document:
    return {
        "name": stage.name, "ratio": exact_document(stage.ratio), "parts": stage.parts,
        "a": _cell(stage.a, found.a), "b": _cell(stage.b, found.b),
    }  # fmt: skip


def _cell(cell: Cell, side: Side) -> Document:
    between = cell.between or (None, None)
    return {
        "words": cell.words, "factor": exact_document(cell.factor), **_place(side, cell.source),
        "after": _place(side, between[0]), "before": _place(side, between[1]),
    }  # fmt: skip


def _place(side: Side, source: int | None) -> Document:
    found = side.trace.sources.get(source) if source is not None else None
    return {"file": found.file if found else None, "line": found.line if found else None}


def _cosine(cosine: Cosine | None) -> Document | None:
    return None if cosine is None else {"value": cosine.value, "error": cosine.error}
