"""A large table of a trace as columns: a number each for a million rows, and no object for a row.

Of a million nodes a command shows a hundred, and asks of the others how many there are of which
kind. A fact is made of a row when somebody looks at it, and is let go again.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import eq
from sys import intern
from typing import Any, Protocol, TypeVar, overload

from tracer.errors import TraceUnreadable
from tracer.events import Contribution, Edge, Node, NodeState, Receipt, Structure

__all__ = [
    "LARGE",
    "Column",
    "Columns",
    "Contributions",
    "Edges",
    "Nodes",
    "Receipts",
    "Sizes",
    "States",
    "leaves_of",
    "numbered",
    "states_of",
]

LARGE = 20_000
"""Nodes of a call's graph from which on it is read as columns."""

NONE = -1
"""NULL in a column of numbers: a tensor that was not measured."""

SAMPLED = 64
"""Rows from the middle of a table from which it is guessed what most of them say."""

FIELD, RECORD = "\x1f", "\x1e"
"""What stands between the fields, and between the records, of rows that come as one text."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Column = Sequence[int]
"""A range where each row says one more than the one before, else an array."""

Kind = tuple[Any, ...]

Guess = tuple[str, Column]
"""A test in SQL that all rows pass if the column is this one."""


class Ask(Protocol):
    """Runs a query; what goes wrong is an error of the trace."""

    def __call__(self, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]: ...


class Table:
    """The rows of one structure or layout in a table, as columns, in the order of their `key`.

    SQLite hands over a million numbers as one text in a sixth of the time that a million rows take;
    and whether a column is a constant or counts on, as in a long chain it does, it tells without
    handing over anything. `second` is the rest of a key that has two parts.

    Raises:
        TraceUnreadable: from each method, of a file whose rows are not what they should be.
    """

    def __init__(
        self,
        ask: Ask,
        broken: Callable[[object], TraceUnreadable],
        table: str,
        owner: tuple[str, int],
        key: str,
        second: str = "",
    ) -> None:
        self._ask = ask
        self._broken = broken
        self._name = table
        self._key = key
        self._order = f"{key}, {second}" if second else key
        self._where = f"FROM {table} WHERE {owner[0]} = {int(owner[1])}"
        self.count, self.first, last = next(ask(
            f"SELECT (SELECT count(*) {self._where}), (SELECT min({key}) {self._where}), "
            f"(SELECT max({key}) {self._where})"
        ))  # fmt: skip
        self.is_dense = (
            isinstance(self.first, int)
            and isinstance(last, int)
            and last - self.first + 1 == self.count
            and (not second or self._all(f"{second} = 0"))
        )
        """Whether the key counts the rows, one after the other."""

    def numbers(self, *names: str) -> list[Column]:
        """A column each; NULL is -1."""
        told = [f"ifnull({name}, {NONE})" for name in names]
        guesses = self._guesses(told)
        if guesses and not self._all(*(test for test, _ in guesses.values())):
            guesses = {name: guess for name, guess in guesses.items() if self._all(guess[0])}
        return [guesses[name][1] if name in guesses else self._listed(name) for name in told]

    def kinds(self, texts: Sequence[str], numbers: Sequence[str]) -> tuple[list[Kind], Column]:
        """What rows say in these columns, each once; and which of it each row says."""
        names = (*texts, *numbers)
        return (
            self._but_for_few(names)
            or self._joined(names, len(texts))
            or numbered(self._ask(f"SELECT {', '.join(names)} {self._ordered}"))
        )

    @property
    def _ordered(self) -> str:
        return f"{self._where} ORDER BY {self._order}"

    def _sample(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows from the middle, each behind its key."""
        if not self.is_dense:
            return []
        return list(self._ask(
            f"SELECT {self._key}, {', '.join(names)} {self._where} "
            f"AND {self._key} >= {self.first + self.count // 2} ORDER BY {self._order} "
            f"LIMIT {SAMPLED}"
        ))  # fmt: skip

    def _guesses(self, names: Sequence[str]) -> dict[str, Guess]:
        """The columns that are a constant, or count on, in the sample."""
        found: dict[str, Guess] = {}
        sample = self._sample(names)
        for place, name in enumerate(names, start=1):
            values = [row[place] for row in sample]
            if len(values) < 2 or not all(isinstance(value, int) for value in values):
                continue
            offset = values[0] - sample[0][0]
            if len(set(values)) == 1:
                constant = array("q", values[:1]) * self.count
                found[name] = (f"{name} = {values[0]}", constant)
            elif all(row[place] - row[0] == offset for row in sample):
                start = self.first + offset
                counting = range(start, start + self.count)
                found[name] = (f"{name} = {self._key} + {offset}", counting)
        return found

    def _all(self, *tests: str) -> bool:
        """Whether all rows pass; the first that does not ends the search."""
        odd = f"NOT coalesce({' AND '.join(tests)}, 0)"
        return not list(self._ask(f"SELECT 1 {self._where} AND {odd} LIMIT 1"))

    def _listed(self, name: str) -> Column:
        text = self._text(name, ",")
        try:
            found = array("q", json.loads(f"[{text}]"))
        except (ValueError, TypeError, OverflowError) as error:
            raise self._broken(f"{self._name}: expected numbers, found others: {error}") from error
        if len(found) != self.count:
            raise self._broken(f"{self._name}: {len(found)} numbers in {self.count} rows")
        return found

    def _text(self, told: str, between: str) -> str:
        """What all rows say, as one text."""
        rows = self._ask(
            f"SELECT group_concat(told, ?) FROM (SELECT {told} AS told {self._ordered})", between
        )
        return str(next(rows)[0] or "")

    def _but_for_few(self, names: Sequence[str]) -> tuple[list[Kind], Column] | None:
        """Where nearly all rows say the same: that, and what the others say."""
        said = Counter(row[1:] for row in self._sample(names))
        if not said:
            return None
        (usual, times), *_ = said.most_common(1)
        if times < SAMPLED * 7 // 8:
            return None
        tests = " AND ".join(f"{name} IS ?" for name in names)
        most = self.count // 8
        odd = list(self._ask(
            f"SELECT {self._key}, {', '.join(names)} {self._where} AND NOT ({tests}) "
            f"LIMIT {most + 1}", *usual,
        ))  # fmt: skip
        if len(odd) > most:
            return None
        kinds = {usual: 0}
        column = array("q", [0]) * self.count
        for key, *kind in odd:
            column[key - self.first] = kinds.setdefault(tuple(kind), len(kinds))
        return list(kinds), column

    def _joined(self, names: Sequence[str], texts: int) -> tuple[list[Kind], Column] | None:
        """The rows as one text; None where a field has in it what stands between fields."""
        told = f" || '{FIELD}' || ".join(f"ifnull({name}, '')" for name in names)
        records = self._text(told, RECORD).split(RECORD)
        if len(records) != self.count:
            return None
        known, column = numbered(records)
        kinds: list[Kind] = []
        for record in known:
            fields = record.split(FIELD)
            if len(fields) != len(names):
                return None
            try:
                numbers = [int(field) if field else None for field in fields[texts:]]
            except ValueError as error:
                raise self._broken(f"{self._name}: {error}") from error
            kinds.append((*fields[:texts], *numbers))
        return kinds, column


def numbered(things: Iterable[K]) -> tuple[list[K], Column]:
    """Each thing once, and for each thing which of them it is."""
    known: dict[K, int] = {}
    column = array("q", (known.setdefault(thing, len(known)) for thing in things))
    return list(known), column


class Facts(Sequence[T]):
    """Facts of one class, made from columns as they are asked for."""

    columns: tuple[Column, ...]
    """What tells one of these from another."""

    @abstractmethod
    def _made(self, place: int) -> T: ...

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...
    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        if isinstance(place, slice):
            return tuple(map(self._made, range(len(self))[place]))
        return self._made(range(len(self))[place])

    def __iter__(self) -> Iterator[T]:
        return map(self._made, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return self is other or all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Nodes(Facts[Node]):
    """`kinds` are name, called, custom, source and module; `buffers` those of the few leaves."""

    def __init__(self, kinds: list[Kind], kind: Column, buffers: dict[int, int]) -> None:
        self.kinds = [(intern(n), intern(c), intern(u), *places) for n, c, u, *places in kinds]
        self.kind = kind
        self.buffers = buffers
        self.columns = (kind,)

    def _made(self, place: int) -> Node:
        name, called, custom, source, module = self.kinds[self.kind[place]]
        return Node(place, name, source, module, called, custom, self.buffers.get(place))


@dataclass(eq=False)
class Edges(Facts[Edge]):
    sender: Column
    output: Column
    receiver: Column
    input: Column

    def __post_init__(self) -> None:
        self.columns = (self.sender, self.output, self.receiver, self.input)

    def _made(self, place: int) -> Edge:
        return Edge(self.sender[place], self.output[place], self.receiver[place], self.input[place])


@dataclass(eq=False)
class Contributions(Facts[Contribution]):
    edge: Column
    form: Column
    row: Column

    def __post_init__(self) -> None:
        self.columns = (self.edge, self.form, self.row)

    def _made(self, place: int) -> Contribution:
        return Contribution(self.edge[place], self.form[place], _known(self.row[place]))


@dataclass(eq=False)
class Receipts(Facts[Receipt]):
    node: Column
    input: Column
    form: Column
    row: Column

    def __post_init__(self) -> None:
        self.columns = (self.node, self.input, self.form, self.row)

    def _made(self, place: int) -> Receipt:
        row = _known(self.row[place])
        return Receipt(self.node[place], self.input[place], self.form[place], row)


class States(Facts[NodeState]):
    """`kinds` are the states of nodes, each once; node and `first` are those of no node."""

    def __init__(self, node: Column, kinds: list[NodeState], kind: Column, first: Column) -> None:
        self.node = node
        self.kinds = kinds
        self.kind = kind
        self.first = first
        self.columns = (node, kind, first)

    def of(self, node: int) -> NodeState | None:
        """The state of a node, None if nothing was read on it."""
        place = self.place(node)
        return None if place is None else self._made(place)

    def place(self, node: int) -> int | None:
        """The row of a node."""
        if isinstance(self.node, range):
            return node - self.node.start if node in self.node else None
        return self._places.get(node)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {node: place for place, node in enumerate(self.node)}

    def _made(self, place: int) -> NodeState:
        kind = self.kinds[self.kind[place]]
        return NodeState(
            self.node[place], kind.saved, kind.numbers, self.first[place], kind.hooks, kind.ran
        )


class Sizes(Facts[tuple[int, bool, bool]]):
    """How many elements the rows of an event have, whether complex, and whether in doubles."""

    def __init__(self, kinds: list[tuple[int, bool, bool]], kind: Column) -> None:
        self.kinds = kinds
        self.kind = kind
        self.columns = (kind,)

    def _made(self, place: int) -> tuple[int, bool, bool]:
        return self.kinds[self.kind[place]]

    def __iter__(self) -> Iterator[tuple[int, bool, bool]]:
        return map(self.kinds.__getitem__, self.kind)


@dataclass(frozen=True)
class Columns:
    """Reads the graphs and layouts of large calls; `parsed` is what a text of JSON says."""

    ask: Ask
    broken: Callable[[object], TraceUnreadable]
    parsed: Callable[[str], Any]
    _tables: dict[tuple[str, int], Table] = field(default_factory=dict)

    def has(self, structure: int) -> bool:
        """Whether a graph is large, and its nodes and edges are numbered as they should be."""
        (count,) = next(self.ask("SELECT count(*) FROM nodes WHERE structure = ?", structure))
        if count < LARGE:
            return False
        tables = (self._of_graph("nodes", structure), self._of_graph("edges", structure))
        return all(table.is_dense and table.first == 0 for table in tables)

    def structure(self, id: int) -> Structure:
        kinds = self._of_graph("nodes", id).kinds(
            ("name", "called", "custom"), ("source", "module")
        )
        buffers = self.ask(
            "SELECT node, buffer FROM nodes WHERE structure = ? AND buffer IS NOT NULL "
            "ORDER BY node",
            id,
        )
        edges = self._of_graph("edges", id).numbers("sender", "output", "receiver", "input")
        return Structure(id, Nodes(*kinds, dict(buffers)), Edges(*edges))

    def rows(self, layout: int) -> Sizes | None:
        """None where they are not numbered as they should be."""
        table = self._of_layout("layout_rows", layout, "row")
        if not table.is_dense or table.first != 0:
            return None
        kinds, kind = table.kinds((), ("elements", "is_complex", "is_double"))
        return Sizes([(elements, bool(c), bool(d)) for elements, c, d in kinds], kind)

    def contributions(self, layout: int) -> Contributions:
        table = self._of_layout("contributions", layout, "edge")
        return Contributions(*table.numbers("edge", "form", "row"))

    def receipts(self, layout: int) -> Receipts:
        table = self._of_layout("receipts", layout, "node", "input")
        return Receipts(*table.numbers("node", "input", "form", "row"))

    def states(self, layout: int) -> States:
        """Nodes that say the same share the very dict, and the tuples, that say it."""
        table = self._of_layout("states", layout, "node")
        kinds, kind = table.kinds(
            ("saved", "numbers"), ("hooks_before", "hooks_after", "hooks_buffer", "ran")
        )
        known: dict[str, Any] = {}
        for said, names, *_ in kinds:
            known.setdefault(said, self.parsed(said))
            known.setdefault(names, tuple(self.parsed(names)))
        states = [
            NodeState(NONE, known[said], known[names], 0, tuple(hooks), bool(ran))
            for said, names, *hooks, ran in kinds
        ]
        node, first = table.numbers("node", "first")
        return States(node, states, kind, first)

    def _of_graph(self, table: str, structure: int) -> Table:
        return self._table(table, ("structure", structure), table[:-1])

    def _of_layout(self, table: str, layout: int, key: str, second: str = "") -> Table:
        return self._table(table, ("layout", layout), key, second)

    def _table(self, table: str, owner: tuple[str, int], key: str, second: str = "") -> Table:
        found = self._tables.get((table, owner[1]))
        if found is None:
            found = Table(self.ask, self.broken, table, owner, key, second)
            self._tables[table, owner[1]] = found
        return found


def leaves_of(nodes: Sequence[Node]) -> dict[int, int]:
    """The nodes that write a buffer, and which one."""
    if isinstance(nodes, Nodes):
        return nodes.buffers
    return {node.index: node.buffer for node in nodes if node.buffer is not None}


def states_of(states: Sequence[NodeState]) -> Callable[[int], NodeState | None]:
    """Tells the state of a node, None if nothing was read on it."""
    if isinstance(states, States):
        return states.of
    return {state.node: state for state in states}.get


def _known(row: int) -> int | None:
    return None if row == NONE else row
