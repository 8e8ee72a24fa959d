"""From a trace to the graph: a node per autograd node and call, an edge per contribution.

Edges go the way the gradient flows. What every attribute means stands in `attributes.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from tracer.columns import leaves_of
from tracer.events import Call, Layout, Measurement, Node, NodeState, Step, Structure
from tracer.graph.names import Names
from tracer.graph.window import Window, choose, of_calls
from tracer.semantics.effects import Effect
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import effects_of
from tracer.tracefile import Measured, Trace, load

__all__ = ["Builder", "Facts", "Rows", "build", "described", "measured"]

ACCUMULATES = "AccumulateGrad"
UNKNOWN = NodeState(-1)
MOST_REMEMBERED = 24


def build(
    trace: Trace | str | Path,
    *,
    step: int | None = None,
    call: int | None = None,
    into: nx.MultiDiGraph | None = None,
    calls: Collection[int] | None = None,
) -> nx.MultiDiGraph:
    """The graph of one step's window: by default the first complete one, or else all calls.

    `step` picks another step, `call` a single backward call (the K-th recorded one, from 1; with
    `step` the K-th of its window). `calls` are the numbers of the calls to show instead, whatever
    window they are of. `into` is an empty graph to fill, of a class of its own.

    Raises:
        NothingRecorded: the trace holds no backward call.
        UnknownName: no such step or call.
    """
    if not isinstance(trace, Trace):
        with load(trace) as opened:
            return build(opened, step=step, call=call, into=into, calls=calls)
    window = choose(trace, step, call) if calls is None else of_calls(trace, calls, step)
    return Builder(trace, nx.MultiDiGraph() if into is None else into).built(window)


def measured(measurement: Measurement | None) -> dict[str, Any]:
    """A measurement as plain attributes; None each where nothing was measured."""
    if measurement is None:
        return dict.fromkeys(("sum", "norm", "largest", "nonfinite", "fingerprint", "values"))
    return {
        "sum": measurement.sum,
        "norm": measurement.norm,
        "largest": measurement.largest,
        "nonfinite": measurement.nonfinite,
        "fingerprint": measurement.fingerprint,
        "values": measurement.values,
    }


@dataclass
class Rows:
    """The measurements of one event, by the numbers that its layout gives them."""

    trace: Trace
    measurements: Measured

    def tensor(self, form: int, row: int | None) -> dict[str, Any]:
        """A gradient as attributes: its form and what was measured of it."""
        return {**self.form(form), **measured(self.measurement(row))}

    def form(self, form: int) -> dict[str, Any]:
        known = self.trace.forms[form]
        return {
            "shape": known.shape,
            "dtype": known.dtype,
            "device": known.device,
            "elements": known.elements,
        }

    def measurement(self, row: int | None) -> Measurement | None:
        return self.measurements[row] if row is not None else None


@dataclass
class Facts:
    """What the layout of a call says, by node."""

    structure: Structure
    states: dict[int, NodeState]
    received: dict[int, dict[int, tuple[int, int | None]]]
    sent: dict[int, dict[int, int]]
    fan_in: dict[int, int]
    scalars: tuple[float, ...]

    def saved(self, node: int) -> dict[str, Any]:
        state = self.states.get(node, UNKNOWN)
        numbers = self.scalars[state.first : state.first + len(state.numbers)]
        saved = {name: _tupled(value) for name, value in state.saved.items()}
        return {**saved, **dict(zip(state.numbers, numbers, strict=False))}

    def said(self, node: int) -> Hashable:
        """What tells one node's `saved` from another's, as long as the layout is there."""
        state = self.states.get(node)
        if state is None:
            return None
        return id(state.saved), self.scalars[state.first : state.first + len(state.numbers)]


def _facts(trace: Trace, call: Call, layout: Layout) -> Facts:
    structure = trace.structure(layout.structure if layout.structure is not None else -1)
    received: dict[int, dict[int, tuple[int, int | None]]] = {}
    for receipt in layout.receipts:
        received.setdefault(receipt.node, {})[receipt.input] = (receipt.form, receipt.row)
    sent: dict[int, dict[int, int]] = {}
    met: Counter[tuple[int, int]] = Counter((root.node, root.input) for root in layout.roots)
    for contribution in layout.contributions:
        edge = structure.edges[contribution.edge]
        sent.setdefault(edge.sender, {})[edge.output] = contribution.form
        met[edge.receiver, edge.input] += 1
    fan_in: dict[int, int] = {}
    for (node, _), count in met.items():
        fan_in[node] = max(fan_in.get(node, 0), count)
    states = {state.node: state for state in layout.states}
    return Facts(structure, states, received, sent, fan_in, trace.scalars(call))


class Builder:
    """Adds calls and steps to one graph, in the order in which they happened."""

    def __init__(self, trace: Trace, graph: nx.MultiDiGraph) -> None:
        self.graph = graph
        self._trace = trace
        self._names = Names(trace)
        self._places: dict[int | None, dict[str, Any]] = {}
        cwd = trace.info.cwd
        self._lines: dict[int | None, dict[str, Any]] = {
            id: {
                "file": _from_folder(source.file, cwd),
                "line": source.line,
                "function": source.function,
            }
            for id, source in trace.sources.items()
        }
        self._lines[None] = {"file": "", "line": 0, "function": ""}
        self._runs: dict[int, list[int]] = {}
        """For each buffer, how many calls were added up before it was emptied, run after run."""

    def built(self, window: Window) -> nx.MultiDiGraph:
        """The graph of a window."""
        for number, event in window.calls:
            self.add_call(number, event)
        for taken in window.steps:
            self.add_step(taken)
        self.finish(window)
        return self.graph

    def add_call(self, number: int, call: Call) -> None:
        layout = self._trace.layout(call.layout)
        facts = _facts(self._trace, call, layout)
        rows = Rows(self._trace, self._trace.measured(call))
        effects = {
            node.index: self._effects(node, facts)
            for node in facts.structure.nodes
            if node.index in facts.sent
        }
        for node in facts.structure.nodes:
            key = f"c{number}.n{node.index}"
            self.graph.add_node(key, **self.node_data(number, call, node, facts, rows))
        self._add_contributions(number, layout, facts, rows, effects)
        self.add_roots(number, call, layout, rows)
        self.add_captures(number, call, layout, rows)
        self.add_accumulations(number, call, layout, facts, rows)

    def _effects(self, node: Node, facts: Facts) -> tuple[Effect, ...]:
        received = {i: form for i, (form, _) in facts.received.get(node.index, {}).items()}
        return self.effects_at(node, received, facts.sent[node.index], facts.saved(node.index))

    def effects_at(
        self, node: Node, received: dict[int, int], sent: dict[int, int], saved: dict[str, Any]
    ) -> tuple[Effect, ...]:
        """What a node does; `received` and `sent` have the forms at its inputs and outputs."""
        forms = self._trace.forms
        return effects_of(
            NodeFacts(
                node.name,
                received=tuple(
                    forms[received[i]].shape if i in received else None
                    for i in range(max(received, default=-1) + 1)
                ),
                sent=tuple(
                    forms[sent[i]].shape if i in sent else None for i in range(max(sent) + 1)
                ),
                saved=saved,
                custom=node.custom,
            )
        )

    def _place(self, module: int | None) -> dict[str, Any]:
        known = self._places.get(module)
        if known is None:
            place = self._names.place(module)
            known = self._places[module] = {
                "root": place.root if place else None,
                "module": place.path if place else None,
                "module_class": place.kind if place else "",
                "replica": place.replica if place else None,
            }
        return known

    def node_data(
        self, number: int, call: Call, node: Node, facts: Facts, rows: Rows
    ) -> dict[str, Any]:
        """The attributes of an autograd node."""
        state = facts.states.get(node.index, UNKNOWN)
        received = facts.received.get(node.index, {})
        tensors = tuple(
            rows.tensor(*received[i]) if i in received else None
            for i in range(max(received, default=-1) + 1)
        )
        return dict(
            kind="node",
            name=node.name,
            call=number,
            step=call.step,
            structure=facts.structure.id,
            index=node.index,
            **self._lines[node.source],
            called=node.called,
            custom=node.custom,
            **self._place(node.module),
            buffer=f"b{node.buffer}" if node.buffer is not None else None,
            ran=state.ran,
            hooks_before=state.hooks[0],
            hooks_after=state.hooks[1],
            hooks_buffer=state.hooks[2],
            saved=facts.saved(node.index),
            received=tensors,
            norm=combined(t["norm"] for t in tensors if t),
            fan_in=facts.fan_in.get(node.index, 0),
        )

    def _add_contributions(
        self,
        number: int,
        layout: Layout,
        facts: Facts,
        rows: Rows,
        effects: dict[int, tuple[Effect, ...]],
    ) -> None:
        for contribution in layout.contributions:
            edge = facts.structure.edges[contribution.edge]
            self.graph.add_edge(
                f"c{number}.n{edge.sender}",
                f"c{number}.n{edge.receiver}",
                key=contribution.edge,
                kind="contribution",
                call=number,
                output=edge.output,
                input=edge.input,
                **rows.tensor(contribution.form, contribution.row),
                **described(effects[edge.sender][edge.output]),
            )

    def add_roots(self, number: int, call: Call, layout: Layout, rows: Rows) -> None:
        for position, root in enumerate(layout.roots):
            key = f"c{number}.r{position}"
            value = rows.measurement(root.value)
            self.graph.add_node(
                key,
                kind="root",
                name=root.name,
                call=number,
                step=call.step,
                order=call.order,
                entry=call.entry,
                outcome=call.outcome,
                nested_in=call.nested_in,
                create_graph=call.create_graph,
                structure=layout.structure,
                **self._lines[call.source],
                shape=self._trace.forms[root.form].shape,
                values=value.values if value else None,
                norm=value.norm if value else None,
            )
            self.graph.add_edge(
                key,
                f"c{number}.n{root.node}",
                key=0,
                kind="start",
                call=number,
                output=0,
                input=root.input,
                **rows.tensor(root.form, root.gradient),
                **NO_EFFECT,
            )

    def add_captures(self, number: int, call: Call, layout: Layout, rows: Rows) -> None:
        for capture in layout.captures:
            if capture.form is None:
                continue
            key = f"c{number}.g{capture.position}"
            self.graph.add_node(
                key, kind="capture", name=f"result {capture.position}", call=number, step=call.step,
                structure=layout.structure, **self._lines[call.source],
            )  # fmt: skip
            self.graph.add_edge(
                f"c{number}.n{capture.node}",
                key,
                key=0,
                kind="capture",
                call=number,
                output=0,
                input=capture.input,
                **rows.tensor(capture.form, capture.row),
                **NO_EFFECT,
            )

    def add_accumulations(
        self, number: int, call: Call, layout: Layout, facts: Facts, rows: Rows
    ) -> None:
        """What each AccumulateGrad node received goes into its buffer; what lay there before."""
        readings = {(r.buffer, r.moment): (r.form, r.row) for r in layout.readings}
        for index, buffer in leaves_of(facts.structure.nodes).items():
            received = facts.received.get(index, {}).get(0)
            if received is None or not call.accumulates:
                continue
            key = self._buffer(buffer)
            before = readings.get((buffer, "before"))
            is_fresh = before is None or _is_zero(rows.measurement(before[1]))
            runs = self._runs.setdefault(buffer, [])
            if not runs and not is_fresh:
                self.graph.nodes[key]["is_added_to"] = True
            if is_fresh or not runs:
                runs.append(0)
            runs[-1] += 1
            after = readings.get((buffer, "after"))
            if after is not None:
                self._keep(key, rows.tensor(*after))
                self._remember(key)
            self.graph.add_edge(
                f"c{number}.n{index}",
                key,
                key=number,
                kind="accumulation",
                call=number,
                output=0,
                input=0,
                is_fresh=is_fresh,
                **rows.tensor(*received),
                **NO_EFFECT,
            )

    def _buffer(self, id: int) -> str:
        """The node of a buffer, made when it is first written."""
        key = f"b{id}"
        if key in self.graph:
            return key
        buffer = self._trace.buffers[id]
        home = self._names.home(buffer)
        self.graph.add_node(
            key,
            kind="buffer",
            name=self._names.buffer(id),
            root=home.root if home else None,
            module=home.path if home else None,
            module_class=home.kind if home else "",
            is_parameter=buffer.is_parameter,
            shape=buffer.shape,
            dtype=buffer.dtype,
            device=buffer.device,
            calls=0,
            runs=(),
            history=(),
            is_added_to=False,
            norm=None,
            values=None,
        )
        return key

    def _keep(self, key: str, tensor: dict[str, Any]) -> None:
        """The buffer as it was read last."""
        self.graph.nodes[key].update(norm=tensor["norm"], values=tensor["values"])

    def _remember(self, key: str) -> None:
        """The values of a small buffer after each of the first calls."""
        data = self.graph.nodes[key]
        if data["values"] is not None and len(data["history"]) < MOST_REMEMBERED:
            data["history"] = (*data["history"], data["values"])

    def add_step(self, step: Step) -> None:
        layout = self._trace.layout(step.layout)
        rows = Rows(self._trace, self._trace.measured(step))
        key = f"s{step.order}"
        self.graph.add_node(
            key,
            kind="step",
            name=step.kind,
            step=step.step,
            order=step.order,
            outcome=step.outcome,
            options=tuple(
                {name: _tupled(v) for name, v in group.items() if name not in ("buffers", "frozen")}
                for group in step.groups
            ),
            **self._lines[step.source],
        )
        for reading in layout.readings:
            if reading.moment != "consumed" or f"b{reading.buffer}" not in self.graph:
                continue
            tensor = rows.tensor(reading.form, reading.row)
            self._keep(f"b{reading.buffer}", tensor)
            self.graph.add_edge(
                f"b{reading.buffer}", key, key=0, kind="consumption", call=None, output=0, input=0,
                **tensor, **NO_EFFECT,
            )  # fmt: skip

    def finish(self, window: Window) -> None:
        for id, runs in self._runs.items():
            self.graph.nodes[f"b{id}"].update(calls=sum(runs), runs=tuple(runs))
        info = self._trace.info
        self.graph.graph.update(
            view="full",
            script=_from_folder(info.script, info.cwd),
            command=info.command,
            status=info.status,
            rank=info.rank,
            world=info.world,
            step=window.step,
            steps=len(self._trace.steps),
            calls=tuple(number for number, _ in window.calls),
            calls_recorded=len(self._trace.calls),
            classes=self._names.classes(),
            has_several_roots=self._names.has_several_roots,
            note=window.note,
        )


NO_EFFECT: dict[str, Any] = {
    "effect": None, "factor": None, "count": None, "summed": None, "words": "",
}  # fmt: skip


def described(effect: Effect) -> dict[str, Any]:
    factor = effect.factor
    return {
        "effect": effect.kind,
        "factor": None if factor is None else float(factor),
        "count": effect.count,
        "summed": effect.summed,
        "words": effect.words,
    }


def _tupled(value: Any) -> Any:
    """The value with tuples in the place of lists, as everywhere in a graph."""
    if isinstance(value, list):
        return tuple(_tupled(item) for item in value)
    if isinstance(value, dict):
        return {name: _tupled(item) for name, item in value.items()}
    return value


def _from_folder(file: str, folder: str) -> str:
    """The path as seen from the folder that the run was started in, if it lies inside."""
    inside = file.removeprefix(folder.rstrip("/\\"))
    return inside[1:] if folder and inside != file and inside[:1] in ("/", "\\") else file


def _is_zero(measurement: Measurement | None) -> bool:
    return measurement is not None and measurement.largest == 0 and measurement.nonfinite == 0


def combined(norms: Iterable[float | None]) -> float | None:
    """The norm of several tensors as one; None where none was measured."""
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None
