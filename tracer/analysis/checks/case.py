"""What a check looks at: the windows of a run and their ledgers, worked out once and on demand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tracer.analysis.callfacts import CallFacts
from tracer.analysis.checks.finding import Finding
from tracer.analysis.checks.traits import Traits, traits_of
from tracer.analysis.checks.windows import Kind, Window, kinds_of, windows_of
from tracer.analysis.explain import Explainer
from tracer.analysis.history import Entry
from tracer.analysis.ledger import Ledger, Row
from tracer.analysis.network import Network
from tracer.analysis.notes import Optimizer, optimizer_of
from tracer.analysis.rankaxis import alone
from tracer.events import Call, Source
from tracer.semantics.effects import Contracts, Sums
from tracer.tracefile import Trace

__all__ = ["Account", "Case"]

MOST_WORK = 60_000
"""Contributions, and events times buffers, that are looked into: some seconds' worth."""

FEWEST_KINDS = 6
"""Kinds of windows that are looked into, however large they are."""

MOST_FOLLOWED = 200
"""Nodes of a loss that are followed below its items."""

MOST_FILLS = 6
"""Of a run without steps, how often each buffer is looked at."""


@dataclass(frozen=True)
class Account:
    """Buffers whose books are the same, in a window that stands for all of its kind.

    Of a job of several ranks `ledger` is that of one, as if it were alone; `joint` has what came
    from the others as well.
    """

    kind: Kind | None
    ledger: Ledger
    buffers: tuple[int, ...]
    joint: Ledger

    @property
    def steps(self) -> list[int]:
        return self.kind.steps if self.kind is not None else []

    @property
    def owner(self) -> int:
        """The number of the optimizer, -1 without one."""
        return self.kind.first.step.optimizer if self.kind is not None else -1

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.ledger.history.entries

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.ledger.rows

    @cached_property
    def optimizer(self) -> Optimizer | None:
        return optimizer_of(self.ledger)

    @cached_property
    def fresh(self) -> list[Entry]:
        """The contributions that no earlier step had used."""
        return [entry for entry in self.entries if not entry.consumed[:-1]]

    def rows_of(self, call: int) -> list[Row]:
        return [row for row in self.rows if row.call == call]


class Case:
    """One run under examination. Everything is computed when it is first asked for.

    Of a job of several `ranks`, `trace` is that of the one that it is looked at from.
    """

    def __init__(self, trace: Trace, ranks: Mapping[int, Trace] | None = None) -> None:
        self.trace = trace
        self.explainer = Explainer(trace, ranks)
        self.books = self.explainer.books
        self.found: list[Finding] = []
        """What the checks before this one found."""
        self._network = Network(trace)
        self._traits: dict[int, Traits] = {}

    @cached_property
    def windows(self) -> list[Window]:
        return windows_of(self.trace)

    @cached_property
    def kinds(self) -> list[Kind]:
        return kinds_of(self.trace, self.windows)

    @cached_property
    def looked(self) -> list[Kind]:
        """The kinds that are looked into: all of a usual run, else the commonest and the first."""
        if not self.kinds:
            return []
        work = 0
        found: set[int] = set()
        ranked = sorted(range(len(self.kinds)), key=lambda n: (-len(self.kinds[n].windows), n))
        order = list(dict.fromkeys([0, 1, len(self.kinds) - 1, *ranked]))
        for number in order:
            if number >= len(self.kinds):
                continue
            work += self._work(self.kinds[number].first)
            is_enough = len(found) >= (FEWEST_KINDS if work < 5 * MOST_WORK else 1)
            if work > MOST_WORK and is_enough:
                break
            found.add(number)
        return [self.kinds[number] for number in sorted(found)]

    def _work(self, window: Window) -> int:
        """What it takes to look into a window: its calls, and each buffer's story up to there."""
        calls = sum(self.traits(call.layout).contributions for call in window.calls)
        place = self.books.archive.places[window.step.order]
        return calls + len(window.buffers) * place // 10

    def traits(self, layout: int) -> Traits:
        """What there is to know of a layout, without reading it again."""
        if layout not in self._traits:
            self._traits[layout] = traits_of(self.trace, layout)
        return self._traits[layout]

    @cached_property
    def accounts(self) -> list[Account]:
        """The books of every window that is looked into; of a run without steps, of its fills."""
        found = [account for kind in self.looked for account in self._accounts(kind)]
        return found if self.windows else list(self._fills())

    def looked_at(self, account: Account) -> int:
        """How many windows of its optimizer the accounts stand for."""
        return self._looked_at[account.owner]

    @cached_property
    def _looked_at(self) -> Counter[int]:
        counts: Counter[int] = Counter()
        for kind in self.looked:
            counts[kind.first.step.optimizer] += len(kind.windows)
        return counts

    @cached_property
    def clipped(self) -> set[int]:
        """The optimizers before which a clip by norm had something to do, in any window."""
        return {
            account.owner
            for account in self.accounts
            for entry in account.entries
            if any(change.kind == "clip_grad_norm" for change in entry.changes)
        }

    def _accounts(self, kind: Kind) -> Iterator[Account]:
        step = kind.first.step
        alike: dict[object, list[tuple[int, Ledger]]] = defaultdict(list)
        for buffer in sorted(kind.first.buffers):
            ledger = self.books.ledger(buffer, step)
            if ledger.history.entries:
                alike[_signature(ledger)].append((buffer, ledger))
        for members in alike.values():
            yield _account(kind, members)

    def _fills(self) -> Iterator[Account]:
        alike: dict[object, list[tuple[int, Ledger]]] = defaultdict(list)
        for buffer in self.explainer.buffers[:64]:
            for ledger in self.books.fills(buffer)[:MOST_FILLS]:
                alike[_signature(ledger)].append((buffer, ledger))
        for members in alike.values():
            yield _account(None, members)

    # Names and lines.

    def call(self, order: int) -> CallFacts:
        return self.books.archive.call(order)

    def event_source(self, order: int | None) -> int | None:
        event = self.books.archive.by_order.get(order) if order is not None else None
        return None if event is None else event.source

    def source(self, source: int | None) -> Source | None:
        return self.trace.sources.get(source) if source is not None else None

    def is_in_network(self, facts: CallFacts, node: int) -> bool:
        """Whether a node belongs to a module that owns parameters."""
        return self._network.has(facts.node(node).module)

    def line(self, source: int | None) -> tuple[str, int]:
        """File and line, to compare places with."""
        found = self.source(source)
        return (found.file, found.line) if found is not None else ("", 0)

    def are_of_a_batch(self, row: Row) -> bool:
        """Whether items are no elements of a leaf, and no losses that were numbers before."""
        facts = self.call(row.call)
        ended = self.books.flow(row.call).sites[row.call, row.site]
        below = {facts.structure.edges[number].receiver for number in ended.edges}
        stack, seen = list(below), set(below)
        meets_model = False
        while stack and len(seen) < MOST_FOLLOWED:
            node = stack.pop()
            received = [t.form for t in facts.received.get(node, {}).values()]
            if any(form.shape == () for form in received):
                return False
            meets_model |= self.is_in_network(facts, node)
            for sent in facts.leaving.get(node, ()):
                # Added up, or a product of matrices: many items meet few parameters.
                effect = facts.effect(sent)
                meets_model |= isinstance(effect, Sums | Contracts) or effect.then_sums != 1
                onward = sent.edge.receiver
                if onward not in seen and not meets_model:
                    seen.add(onward)
                    stack.append(onward)
        return meets_model

    def hook_line(self, account: Account, made_at: int | None) -> int | None:
        """Where the last hook on these buffers, or on a tensor made at a line, was registered."""
        lines = self.hook_lines(account, made_at)
        return lines[-1] if lines else made_at

    def hook_lines(self, account: Account, made_at: int | None = None) -> list[int]:
        """Where all of them were."""
        for call in self.calls_of(account):
            facts = self.call(call.order)
            places = [node for b in account.buffers if (node := facts.writers.get(b)) is not None]
            if made_at is not None:
                hooked = (s.node for s in facts.layout.states if "hooked_at" in s.saved)
                places += [n for n in hooked if facts.node(n).source == made_at]
            for node in places:
                lines = facts.state(node).saved.get("hooked_at")
                if lines:
                    return [int(line) for line in lines]
        return []

    def text(self, source: int | None) -> str:
        found = self.source(source)
        return found.text.strip() if found is not None else ""

    def name(self, buffer: int) -> str:
        return self.explainer.names.buffer(buffer)

    # Backward calls.

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The number of each call among the recorded ones, by its order."""
        return self.books.archive.numbers

    def calls_of(self, account: Account) -> list[Call]:
        """The recorded calls that are in the buffer, each once."""
        orders = dict.fromkeys(e.call for e in account.entries if e.call is not None)
        events = (self.books.archive.by_order[order] for order in orders)
        return [event for event in events if isinstance(event, Call)]

    def streams(self, account: Account) -> list[list[Call]]:
        """The calls in the buffer that no earlier step had used, by the line that made them.

        What a checkpoint's own call adds counts for the call inside which it ran.
        """
        fresh = {entry.call for entry in account.fresh}
        with_rows = {row.call for row in account.rows}
        found: dict[int | None, list[Call]] = {}
        for call in self.calls_of(account):
            outer = self._outermost(call)
            is_own = call.nested_in is None or (outer is not None and outer.order in with_rows)
            if call.order in fresh and is_own and outer is not None:
                calls = found.setdefault(outer.source, [])
                if outer not in calls:
                    calls.append(outer)
        return [sorted(calls, key=lambda call: call.order) for calls in found.values()]

    def _outermost(self, call: Call) -> Call | None:
        """The call that no other ran; None if that was not recorded."""
        outer: object = call
        while isinstance(outer, Call) and outer.nested_in is not None:
            outer = self.books.archive.by_order.get(outer.nested_in)
        return outer if isinstance(outer, Call) else None

    def batches_drawn(self, calls: Sequence[Call]) -> bool:
        """Whether as many batches as calls came from one `DataLoader` since the window before.

        One by one, or all in advance, as libraries do that count the items of a window first.
        """
        batches = [call.batch for call in calls]
        loaders = {batch[0] for batch in batches if batch is not None}
        last = batches[-1]
        if None in batches or last is None or len(loaders) > 1:
            return False
        place = self.numbers[calls[0].order] - 1
        before = self.trace.calls[place - 1].batch if place else None
        given = before[1] if before is not None and before[0] == last[0] else 0
        return last[1] - given >= len(calls)


def _account(kind: Kind | None, members: Sequence[tuple[int, Ledger]]) -> Account:
    ledger = members[0][1]
    return Account(kind, alone(ledger), tuple(buffer for buffer, _ in members), ledger)


def _signature(ledger: Ledger) -> object:
    """What two buffers of a window share if their books are the same."""
    entries = tuple(
        (entry.rank, entry.call, entry.source, entry.changes, entry.consumed)
        for entry in ledger.history.entries
    )
    rows = tuple((row.rank, row.call, row.site, row.after, row.unknown) for row in ledger.rows)
    return entries, rows, ledger.unknown, ledger.replicas, ledger.unlike
