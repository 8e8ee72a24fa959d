"""Where the ranks of a job meet, beneath the graph of one of them: each exchange, with a lane each.

A lane is another rank: what its losses were made of, and where it enters. Of many the first few are
drawn, and how many more there are. Parameters that are exchanged in the same way meet in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import networkx as nx

from tracer.analysis.exact import said
from tracer.analysis.explain import Explainer, Explanation
from tracer.analysis.ledger import Row
from tracer.analysis.rankaxis import world_of
from tracer.tracefile import Trace
from tracer.views.explain_svg import LEAVES, MOST_LANES, Data, add_lane, add_stage, stages_of
from tracer.views.labels import plural

__all__ = ["draw_meetings"]

MOST_TEXTS = 3

MOST_LEAVES = 6
"""Leaves from which a line goes to where they are exchanged."""


def draw_meetings(folded: nx.MultiDiGraph, explainer: Explainer, step: int | None) -> None:
    """Put the exchanges of a step beneath the buffers of a folded graph, and the other ranks.

    Nothing is drawn of a single process, and of what was not exchanged.
    """
    met: dict[object, tuple[Explanation, list[Data], set[str]]] = {}
    for group in explainer.overview(step).groups:
        one = group.members[0]
        stages = list(_exchanges(one, explainer.trace))
        if stages:
            key = tuple((stage["name"], stage["pill"]) for stage in stages)
            names = met.setdefault(key, (one, stages, set()))[2]
            names.update(member.name for member in group.members)
    for number, (one, stages, names) in enumerate(met.values()):
        _continue(folded, number, one, stages, names)
    if met:
        info = explainer.trace.info
        drawn = f"rank {info.rank} of {info.world:,}, which meets the others beneath its parameters"
        folded.graph["note"] = "; ".join(filter(None, (folded.graph["note"], drawn)))


def _exchanges(one: Explanation, trace: Trace) -> Iterator[Data]:
    """What happened to a buffer from its first exchange on, if there was one."""
    has_begun = False
    for stage, change in stages_of(one, trace):
        has_begun |= change.kind.startswith("rank-")
        is_meeting = change.kind == "rank-operation" and not change.words.startswith("broadcast")
        if has_begun:
            yield {**stage, "met": is_meeting, "norm": None}


def _continue(
    folded: nx.MultiDiGraph, number: int, one: Explanation, stages: Sequence[Data], names: set[str]
) -> None:
    above = [
        key
        for key, data in folded.nodes(data=True)
        if data["kind"] in LEAVES and names & set(data["parameters"])
    ]
    if len(above) > MOST_LEAVES:
        # Lines from everywhere say less than one line and their number.
        stages[0]["name"] += f", {plural(len(names), 'parameter')}"
        above = above[-1:]
    for place, stage in enumerate(stages):
        key, has_lanes = f"ranks {number} {place}", stage.pop("met")
        add_stage(folded, key, stage, above)
        if has_lanes:
            for lane in _lanes(one):
                add_lane(folded, key, lane)
        above = [key]


def _lanes(one: Explanation) -> Iterator[Data]:
    own, world = one.ledger.rank, world_of(one.ledger)
    rows: dict[int, list[Row]] = {}
    for row in one.ledger.rows:
        if row.rank is not None and row.rank != own:
            rows.setdefault(row.rank, []).append(row)
    shown = list(rows.items())[:MOST_LANES]
    for rank, found in shown:
        yield _lane(f"rank {rank}", _texts(found))
    if world - 1 > len(shown):
        is_simulated = any(shared.is_simulated for shared in one.ledger.history.shared)
        why = "taken to be equal" if is_simulated else "not drawn"
        yield _lane(f"… {plural(world - 1 - len(shown), 'more rank')}", [why])


def _texts(rows: Iterable[Row]) -> list[str]:
    """8 items, 1/8 each; of several calls that are alike once."""
    told: dict[str, set[int]] = {}
    for row in rows:
        text = f"{row.items:,} items, {said(row.weight_at_loss)} each"
        told.setdefault(text, set()).add(row.call)
    texts = [
        text if len(calls) == 1 else f"{plural(len(calls), 'call')} of {text}"
        for text, calls in told.items()
    ]
    return texts[:MOST_TEXTS]


def _lane(name: str, texts: list[str]) -> Data:
    return {"kind": "update", "name": name, "texts": texts, "lines": (), "norm": None}
