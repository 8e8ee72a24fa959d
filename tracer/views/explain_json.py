"""What `explain --json` prints: docs/explain.md says what each key means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.analysis.axis import Axis
from tracer.analysis.chain import Link
from tracer.analysis.explain import Explanation, Overview
from tracer.analysis.history import Change, Shared
from tracer.analysis.ledger import Row
from tracer.analysis.notes import Note
from tracer.analysis.shares import TermShare
from tracer.analysis.strand import Factor
from tracer.analysis.verdicts import TermVerdict
from tracer.tracefile import Trace
from tracer.views.json_text import exact_document

__all__ = ["SCHEMA", "explanation_document", "overview_document"]

SCHEMA = 1
"""Of the JSON document; goes up when a key changes its meaning or goes away."""

Document = dict[str, Any]


def explanation_document(found: Sequence[Explanation], trace: Trace) -> Document:
    """One parameter, with everything behind the answer."""
    return {
        "schema": SCHEMA,
        "trace": str(trace.path),
        "parameter": found[0].name,
        "fillings": [_explanation(one, trace, is_whole=True) for one in found],
    }


def overview_document(overview: Overview, trace: Trace) -> Document:
    """The answers for a run, each with the parameters it holds for."""
    return {
        "schema": SCHEMA,
        "trace": str(trace.path),
        "step": overview.step,
        "answers": [
            {
                **_explanation(group.members[0], trace, is_whole=False),
                "parameters": [
                    {"name": one.name, "norm": one.ledger.norm, "balance": one.balance}
                    for one in group.members
                ],
            }
            for group in overview.groups
        ],
    }  # fmt: skip


def _explanation(one: Explanation, trace: Trace, *, is_whole: bool) -> Document:
    step, optimizer = one.ledger.step, one.optimizer
    document: Document = {
        "name": one.name,
        "step": None if step is None else step.step,
        "filling": one.ledger.fill,
        "norm": one.ledger.norm,
        "answer": one.verdict.words,
        "axes": [_axis(axis, trace) for axis in one.verdict.axes],
        "losses": [_term(term, optimizer.lr if optimizer else None) for term in one.verdict.terms],
        "rows": [_row(row, trace) for row in one.ledger.rows],
        "optimizer": None,
        "balance": one.balance,
        "notes": [_note(note, trace) for note in one.notes],
        "terms": {
            "missing": one.terms.missing or None,
            "shares": [_term_share(term, trace) for term in one.terms.terms],
        },
    }
    if optimizer is not None:
        document["optimizer"] = {
            "kind": optimizer.kind, "lr": optimizer.lr, "is_adaptive": optimizer.is_adaptive,
            "options": optimizer.options, "lrs": list(optimizer.lrs),
        }  # fmt: skip
    if is_whole:
        document["buffer"] = _history(one, trace)
        document["chain"] = [_link(link, trace) for link in one.chain]
    return document


def _term_share(term: TermShare, trace: Trace) -> Document:
    sources = [loss.source for loss in term.losses] or [term.source]
    items = [loss.items for loss in term.losses]
    return {
        "share": term.share.value, "share_error": term.share.error,
        "norm": term.norm, **_place(sources[0], trace),
        "items": [_place(source, trace) for source in items],
    }  # fmt: skip


def _note(note: Note, trace: Trace) -> Document:
    return {"kind": note.kind, "words": note.words, **_place(note.source, trace)}


def _step_numbers(orders: Sequence[int], trace: Trace) -> list[int]:
    steps = {step.order: step.step for step in trace.steps}
    return [steps[order] for order in orders if order in steps]


def _place(source: int | None, trace: Trace) -> Document:
    found = trace.sources.get(source) if source is not None else None
    return {"file": found.file if found else None, "line": found.line if found else None}


def _axis(axis: Axis, trace: Trace) -> Document:
    return {
        "axis": axis.name, "verdict": axis.verdict, "words": axis.words, "note": axis.note,
        **_place(axis.source, trace),
    }  # fmt: skip


def _term(term: TermVerdict, lr: float | None) -> Document:
    weight = term.unit_weight
    return {
        "kind": term.kind, "words": term.words, "items": term.items,
        "total": exact_document(term.total), "weight": exact_document(term.weight),
        "ratio": term.ratio, "unit": term.unit, "least": term.least, "largest": term.largest,
        "unit_weight": exact_document(weight),
        "effective_step": None if weight is None or lr is None else lr * float(weight),
        "unknown": term.unknown,
    }  # fmt: skip


def _row(row: Row, trace: Trace) -> Document:
    source = row.reductions[-1].source if row.reductions else row.term.source
    samples = row.samples
    return {
        "rank": row.rank, "ranks": row.copies, "call": row.number, "replica": row.replica,
        "items": row.items, "masked": row.masked,
        "samples": samples.count if samples else None,
        "elements_per_sample": samples.each if samples else None,
        "weight_at_loss": exact_document(row.weight_at_loss), "weight": exact_document(row.weight),
        "total": exact_document(row.total), "is_uneven": row.is_uneven,
        "least": row.least, "largest": row.largest,
        "own_least": row.own.least if row.own else None,
        "own_largest": row.own.largest if row.own else None,
        "loss_factors": [_factor(factor, trace) for factor in row.loss],
        "later_factors": [_factor(factor, trace) for factor in row.after],
        "reductions": [
            {"kind": r.kind, "over": r.over, "node": r.name, **_place(r.source, trace)}
            for r in row.reductions
        ],
        "unknown": row.unknown, **_place(source, trace),
    }  # fmt: skip


def _factor(factor: Factor, trace: Trace) -> Document:
    return {
        "kind": factor.kind, "factor": exact_document(factor.value), "words": factor.words,
        "is_measured": factor.is_measured, "is_rough": factor.is_rough,
        **_place(factor.source, trace),
    }  # fmt: skip


def _history(one: Explanation, trace: Trace) -> Document:
    history = one.ledger.history
    return {
        "emptied_by": history.emptied or None,
        "is_complete": history.is_complete,
        "closure_evaluations": history.evaluations,
        "used_again_by": _step_numbers(history.again, trace),
        "exchanges": [_shared(shared, trace) for shared in history.shared],
        "contributions": [
            {
                "rank": entry.rank,
                "is_left_over": entry.is_rest,
                "call": next(
                    (r.number for r in one.ledger.rows
                     if (r.call, r.rank) == (entry.call, entry.rank)), None,
                ),
                "norm": entry.tensor.measured.norm
                if entry.tensor and entry.tensor.measured else None,
                "share": None if share is None else share.value,
                "share_error": None if share is None else share.error,
                "changes": [_change(change, trace) for change in entry.changes],
                "consumed_before": len(entry.consumed[:-1]),
                **_place(entry.source, trace),
            }
            for entry, share in zip(history.entries, one.shares, strict=True)
        ],
    }  # fmt: skip


def _shared(shared: Shared, trace: Trace) -> Document:
    return {
        "by": shared.by, "operation": shared.operation, "factor": exact_document(shared.factor),
        "ranks": list(shared.ranks), "missing": list(shared.missing),
        "without": list(shared.without), "error": shared.error,
        "simulated": shared.is_simulated, **_place(shared.source, trace),
    }  # fmt: skip


def _change(change: Change, trace: Trace) -> Document:
    return {
        "kind": change.kind, "factor": exact_document(change.factor), "words": change.words,
        "is_announced": change.is_announced, **_place(change.source, trace),
    }  # fmt: skip


def _link(link: Link, trace: Trace) -> Document:
    return {
        "node": link.name, "called": link.called, "effect": link.effect,
        "factor": exact_document(link.factor), "norm": link.norm, "fan_in": link.fan_in,
        "branches": link.branches,
        "shares": [{"share": s.value, "share_error": s.error} for s in link.shares],
        **_place(link.source, trace),
    }  # fmt: skip
