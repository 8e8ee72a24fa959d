"""What a test can believe of a training: equal gradients, a mean over all items, balanced books.

    def test_accumulation_is_the_mean(trace):          # the fixture of tracer.pytest_plugin
        assert_equivalent(trace(train, batch=16), trace(train, batch=4, accumulate=4))

A run is the path of a trace (of a job of ranks any of its files), an open `Trace`, a `Recorder`
that has stopped, or what the fixture handed back. What fails says why, in the words of `diff` and
`explain`. Torch is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, Union

from tracer.analysis.balance import Imbalance, check_balance
from tracer.analysis.diff.difference import Difference, compare
from tracer.analysis.diff.sides import Side
from tracer.analysis.explain import Explainer, Explanation, Overview, explainer_of
from tracer.analysis.job import seen_from
from tracer.errors import WrongUse
from tracer.graph.names import matching
from tracer.runfiles import Run, load_run
from tracer.tracefile import Trace
from tracer.views.diff import difference_text
from tracer.views.explain import Lines, answers_text
from tracer.views.terminal import Ink, printable

__all__ = ["assert_balanced", "assert_equivalent", "assert_mean_over_items", "assert_same_steps"]

MOST_IMBALANCES = 6
MEANS = ("mean",)
SCALED_MEANS = ("mean", "scaled-mean")


class HasPath(Protocol):
    @property
    def path(self) -> Path: ...


class HasOutput(Protocol):
    @property
    def output(self) -> Path: ...


Recorded = Union[str, "os.PathLike[str]", HasPath, HasOutput]
"""A run, by whatever knows the path of its trace."""


def assert_equivalent(run_a: Recorded, run_b: Recorded, *, step: int | None = None) -> None:
    """Both runs consumed the same gradients: of every parameter, at every step that both have.

    They may come to them in different ways: other batches, backward calls, replicas, ranks. How
    near they must be follows from the precision in which the gradients were computed.

    Args:
        step: only at this optimizer step.

    Raises:
        AssertionError: with what `gradtrace diff` says of the two.
    """
    __tracebackhide__ = True
    with _compared(run_a, run_b, step) as found:
        partners = found.partners
        is_whole = not (partners.only_a or partners.only_b or partners.reshaped)
        if not (is_whole and found.moments and all(m.is_same for m in found.moments)):
            raise _failure("the two runs do not consume the same gradients", _words(found))


def assert_same_steps(run_a: Recorded, run_b: Recorded, *, step: int | None = None) -> None:
    """Both runs move every parameter alike; gradients may differ by what the lr takes back.

    Args:
        step: only at this optimizer step.

    Raises:
        AssertionError: with what `gradtrace diff` says of the two.
    """
    __tracebackhide__ = True
    with _compared(run_a, run_b, step) as found:
        partners = found.partners
        is_whole = not (partners.only_a or partners.only_b or partners.reshaped)
        same = found.moments and all(moment.is_proportional for moment in found.moments)
        if not (is_whole and same and all(update.updates.is_same for update in found.updates)):
            raise _failure("the two runs do not take the same steps", _words(found))


def assert_mean_over_items(
    run: Recorded, *, step: int | None = None, parameter: str | None = None, scaled: bool = False
) -> None:
    """Every loss enters every update as the mean over all its items, each of the same weight.

    Args:
        step: only at this optimizer step; without it, at every recorded one.
        parameter: only of this parameter; the end of its name is enough.
        scaled: accept a constant times the mean, such as a weight between several losses.

    Raises:
        AssertionError: with what `gradtrace explain` says of the first step that fails.
    """
    __tracebackhide__ = True
    kinds = SCALED_MEANS if scaled else MEANS
    path = _path(run)
    with load_run(path) as opened:
        explainer = explainer_of(opened, path)
        for overview in _overviews(explainer, step):
            if not all(_is_mean(one, kinds) for one in _chosen(overview, explainer, parameter)):
                wanted = "a constant times the mean" if scaled else "the mean"
                words = answers_text(overview, explainer.trace, Ink())
                raise _failure(f"not every loss is {wanted} over its items", words)


def assert_balanced(run: Recorded) -> None:
    """What was sent adds up to what was received, at every fan-in, in every buffer, on each rank.

    What a hook changed is known, and no imbalance.

    Raises:
        AssertionError: with the places where it does not.
    """
    __tracebackhide__ = True
    with load_run(_path(run)) as opened:
        words = [line for trace in opened.ranks.values() for line in _imbalances(trace, opened)]
    if words:
        raise _failure("the books do not balance", "\n".join(words) + "\n")


def _path(run: Recorded) -> Path:
    if isinstance(run, str | os.PathLike):
        return Path(run)
    for name in ("path", "output"):
        found = getattr(run, name, None)
        if found is not None:
            return Path(found)
    raise WrongUse(
        "wrong-use",
        f"found {type(run).__name__}, expected a run: a path, a Trace, a Recorder, or what the "
        "fixture `trace` handed back",
    )


@contextmanager
def _compared(a: Recorded, b: Recorded, step: int | None) -> Iterator[Difference]:
    with ExitStack() as stack:
        sides = []
        for path in (_path(a), _path(b)):
            run = stack.enter_context(load_run(path))
            sides.append(Side(seen_from(run, path), path.name, step, run.ranks))
        yield compare(sides[0], sides[1])


def _words(found: Difference) -> str:
    return difference_text(found, Ink())


def _failure(expected: str, words: str) -> AssertionError:
    return AssertionError(f"{expected}\n\n{words}")


def _overviews(explainer: Explainer, step: int | None) -> Iterator[Overview]:
    """Of one step, of each in turn, or (of a run without steps) of each filling."""
    known: list[int | None] = [s.step for s in explainer.trace.steps if s.outcome == "done"]
    for number in [step] if step is not None else list(dict.fromkeys(known)) or [None]:
        yield explainer.overview(number)


def _chosen(
    overview: Overview, explainer: Explainer, parameter: str | None
) -> Sequence[Explanation]:
    members = [one for group in overview.groups for one in group.members]
    if parameter is None:
        return members
    name = matching(parameter, map(explainer.names.buffer, explainer.trace.buffers))
    return [one for one in members if one.name == name]


def _is_mean(one: Explanation, kinds: Sequence[str]) -> bool:
    terms = one.verdict.terms
    return bool(terms) and all(term.kind in kinds for term in terms)


def _imbalances(trace: Trace, run: Run) -> Iterator[str]:
    """A line for each account that does not add up, and that nobody recorded explains."""
    found = check_balance(trace).imbalances
    rank = f"rank {trace.info.rank}: " if len(run.ranks) > 1 else ""
    for imbalance in found[:MOST_IMBALANCES]:
        yield f"{rank}{_told(imbalance, trace)}"
    if len(found) > MOST_IMBALANCES:
        yield f"{rank}... and {len(found) - MOST_IMBALANCES:,} more"


def _told(imbalance: Imbalance, trace: Trace) -> str:
    numbers = {call.order: n for n, call in enumerate(trace.calls, start=1)}
    calls = {call.order: call for call in trace.calls}
    place = Lines(trace).place(calls[imbalance.call].source)
    factor = "no multiple" if imbalance.factor is None else f"x {imbalance.factor:.6g}"
    return printable(
        f"{imbalance.what}: what arrived is {factor} of what was sent (off by "
        f"{imbalance.error:.0e}), backward call {numbers[imbalance.call]} ({place})"
    )
