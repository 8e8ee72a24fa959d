"""Which loss of one run is which of the other: by the lines that made it, then as it is reduced."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from tracer.analysis.exact import is_same
from tracer.analysis.verdicts import TermVerdict, reduction_word
from tracer.tracefile import Trace

__all__ = ["paired"]

Pair = tuple[TermVerdict, TermVerdict]
Key = Callable[[TermVerdict, Trace], Hashable]


def _lines(term: TermVerdict, trace: Trace) -> Hashable:
    """The lines of its reduction and of its items, as they stood in the file."""
    texts = tuple(_text(source, trace) for source in (term.term.source, term.term.items))
    return (*texts, term.term.name) if any(texts) else None


def _line_of_items(term: TermVerdict, trace: Trace) -> Hashable:
    return _text(term.term.items, trace) or None


def _shape(term: TermVerdict, trace: Trace) -> Hashable:
    row = term.rows[0]
    return (reduction_word(row) if row.reductions else "", row.items)


def _text(source: int | None, trace: Trace) -> str:
    found = trace.sources.get(source) if source is not None else None
    return "".join(found.text.split()) if found else ""


KEYS: tuple[Key, ...] = (_lines, _line_of_items)


def paired(
    a: Sequence[TermVerdict], b: Sequence[TermVerdict], traces: tuple[Trace, Trace]
) -> list[Pair]:
    """Losses that the same lines made; of the others those in order if there are as many.

    Where one run has more of them than the other, one that is reduced alike; what has no like at
    all is left out, unless no loss has.
    """
    left, right = list(a), list(b)
    found: list[Pair] = []
    for key in KEYS:
        found += _taken(_alike(left, right, key, traces), left, right)
    if len(left) == len(right):
        found += zip(left, right, strict=True)
    else:
        found += _taken(_alike(left, right, _shape, traces), left, right)
        found = found or list(zip(left, right, strict=False))
    places = {id(term): place for place, term in enumerate(a)}
    return sorted(found, key=lambda pair: places[id(pair[0])])


def _taken(pairs: Iterable[Pair], left: list[TermVerdict], right: list[TermVerdict]) -> list[Pair]:
    """The pairs, taken out of what is left of both."""
    found = list(pairs)
    ones, others = {id(one) for one, _ in found}, {id(other) for _, other in found}
    left[:] = [term for term in left if id(term) not in ones]
    right[:] = [term for term in right if id(term) not in others]
    return found


def _alike(
    left: Sequence[TermVerdict],
    right: Sequence[TermVerdict],
    key: Key,
    traces: tuple[Trace, Trace],
) -> Iterable[Pair]:
    """Those that share a key: in order if both have as many of it, else first of one weight."""
    keys = dict.fromkeys(key(term, traces[0]) for term in left)
    for wanted in keys:
        ones = [term for term in left if key(term, traces[0]) == wanted]
        others = [term for term in right if key(term, traces[1]) == wanted]
        if wanted is None or not others:
            continue
        if len(ones) != len(others):
            yield from _taken(_of_one_weight(ones, others), ones, others)
        yield from zip(ones, others, strict=False)


def _of_one_weight(ones: Sequence[TermVerdict], others: Sequence[TermVerdict]) -> Iterable[Pair]:
    """Those whose items weigh the same, each once."""
    left = list(others)
    for one in ones:
        like = next((term for term in left if is_same(one.weight, term.weight)), None)
        if like is not None and one.weight is not None:
            left.remove(like)
            yield one, like
