"""What ranks exchanged is in the ledger of each: jobs made by hand, every answer written out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.ranks.sketch import RankSketch, ddp_job
from tracer.analysis.axis import Axis
from tracer.analysis.explain import Explanation, explainer_of
from tracer.analysis.job import job_of
from tracer.cli import main
from tracer.runfiles import load_run
from tracer.views.explain_svg import explanation_svg
from tracer.views.ranks import job_text
from tracer.views.terminal import Ink


def explained(place: Path, name: str = "w", step: int | None = None) -> Explanation:
    with load_run(place) as run:
        return explainer_of(run, place).parameter(name, step)[-1]


def axis(found: Explanation, name: str = "ranks") -> Axis:
    return next(axis for axis in found.verdict.axes if axis.name == name)


def weights(found: Explanation) -> list[tuple[int | None, int, object]]:
    return [(row.rank, row.items, row.weight) for row in found.ledger.rows]


def test_ddp_averages_the_means_of_equal_ranks(tmp_path: Path) -> None:
    found = explained(ddp_job(tmp_path, (1.0, 2.0, 3.0, 6.0)))

    assert weights(found) == [(rank, 8, Fraction(1, 32)) for rank in range(4)]
    assert (axis(found).verdict, axis(found).words) == ("mean", "4 ranks, 1/4 each")
    assert axis(found).note == "DDP"
    assert found.verdict.words == "the mean over all 32 items"
    assert axis(found, "items").words == "8 items, 1/8 each"
    assert axis(found, "backward calls").words == "one call"
    assert found.balance == 0
    assert [shared.error for shared in found.ledger.history.shared] == [0]


def test_every_rank_tells_the_same(tmp_path: Path) -> None:
    ddp_job(tmp_path)
    here, there = (explained(tmp_path / f"run.rank{rank}.trace") for rank in (0, 1))

    assert (here.ledger.rank, there.ledger.rank) == (0, 1)
    assert here.verdict.words == there.verdict.words == "the mean over all 16 items"
    assert there.balance == 0


def test_means_over_different_counts_are_a_mean_of_means(tmp_path: Path) -> None:
    found = explained(ddp_job(tmp_path, items=(8, 6)))

    assert axis(found).verdict == "UNEQUAL"
    assert "an item weighs 1/16 on rank 0, 1/12 on rank 1" in axis(found).words
    assert found.verdict.words.startswith("a mean of means, not the mean")
    assert found.verdict.terms[0].ratio == pytest.approx(8 / 6)


def test_the_part_of_a_missing_rank_is_what_is_left_over(tmp_path: Path) -> None:
    found = explained(ddp_job(tmp_path, (1.0, 3.0, 5.0), missing=[2]))

    rest = found.ledger.history.entries[-1]
    assert (rest.rank, rest.is_rest) == (2, True)
    assert rest.tensor is not None
    assert rest.tensor.measured is not None
    assert rest.tensor.measured.values == pytest.approx([5 / 3] * 4)
    assert axis(found).words.endswith("rank 2 is missing: its part is what is left over")
    assert found.verdict.words == (
        "2/3 x the mean gradient, over all 16 items; without the items of rank 2"
    )


def test_of_two_missing_ranks_the_factor_is_still_known(tmp_path: Path) -> None:
    found = explained(ddp_job(tmp_path, (1.0, 2.0, 3.0, 6.0), missing=[1, 3]))

    assert axis(found).words == "4 ranks, 1/4 each; ranks 1, 3 are missing"
    assert found.balance is None


def by_rank(folder: Path, hook: str = "", ddp: bool = True) -> list[RankSketch]:
    return [RankSketch(folder, rank, 2, hook=hook, ddp=ddp) for rank in range(2)]


def test_calls_without_synchronisation_are_averaged_with_the_last(tmp_path: Path) -> None:
    for sketch, (first, second) in zip(by_rank(tmp_path), [(1, 2), (3, 6)], strict=True):
        sketch.forward(divisor=2, synchronises=False)
        sketch.backward(first, after=first)
        sketch.forward(divisor=2)
        call = sketch.backward(second, before=first, after=6)
        sketch.exchange((first + second) / 2, 6, call=call)
        sketch.consume(6)
        sketch.close()
    found = explained(tmp_path)

    assert weights(found) == [(rank, 8, Fraction(1, 16)) for rank in (0, 0, 1, 1)]
    assert axis(found).words == "2 ranks, 1/2 each"
    assert axis(found, "backward calls").words == "2 calls, not divided"
    assert found.verdict.words == "2 x the mean gradient, over all 32 items"
    assert found.balance == 0


def test_a_call_after_the_synchronised_one_is_told_with_it(tmp_path: Path) -> None:
    for sketch, (first, second) in zip(by_rank(tmp_path), [(1, 2), (3, 6)], strict=True):
        sketch.forward(divisor=2)
        call = sketch.backward(first, after=2)
        sketch.exchange(first / 2, 2, call=call)
        sketch.forward(divisor=2, synchronises=False)
        sketch.backward(second, before=2, after=2 + second)
        sketch.consume(2 + second)
        sketch.close()
    found = explained(tmp_path)

    assert axis(found, "backward calls").words == "2 calls, not divided"
    assert axis(found).verdict == "UNEQUAL"


def test_calls_that_all_synchronise_come_to_the_same_with_the_default_reducer(
    tmp_path: Path,
) -> None:
    for sketch, (first, second) in zip(by_rank(tmp_path), [(1, 2), (3, 6)], strict=True):
        sketch.forward(divisor=2)
        call = sketch.backward(first, after=2)
        sketch.exchange(first / 2, 2, call=call)
        sketch.forward(divisor=2)
        call = sketch.backward(second, before=2, after=6)
        sketch.exchange((2 + second) / 2, 6, call=call)
        sketch.consume(6)
        sketch.close()
    found = explained(tmp_path)

    assert weights(found) == [(rank, 8, Fraction(1, 16)) for rank in (0, 0, 1, 1)]
    assert axis(found).words == "2 ranks, 1/2 each"
    assert axis(found).note == "DDP, 2 times"
    assert found.balance == 0


def test_a_hook_that_only_adds_is_a_sum_over_ranks(tmp_path: Path) -> None:
    for sketch, grad in zip(by_rank(tmp_path, hook="train.sum_hook"), (1, 3), strict=True):
        sketch.forward()
        call = sketch.backward(grad, after=4)
        sketch.exchange(grad, 4, call=call)
        sketch.consume(4)
        sketch.close()
    found = explained(tmp_path)

    assert (axis(found).verdict, axis(found).words) == ("SUM", "2 ranks, added, not divided")
    assert axis(found).note == "DDP, hook sum_hook"
    assert found.verdict.words == "2 x the mean gradient, over all 16 items"


def test_a_hook_that_adds_twice_compounds(tmp_path: Path) -> None:
    for sketch, (first, second) in zip(
        by_rank(tmp_path, hook="train.sum_hook"), [(1, 2), (3, 6)], strict=True
    ):
        sketch.forward()
        call = sketch.backward(first, after=4)
        sketch.exchange(first, 4, call=call)
        sketch.forward()
        call = sketch.backward(second, before=4, after=16)
        sketch.exchange(4 + second, 16, call=call)
        sketch.consume(16)
        sketch.close()
    found = explained(tmp_path)

    assert [weight for _, _, weight in weights(found)] == [Fraction(1, 4), Fraction(1, 8)] * 2
    assert found.verdict.terms[0].kind == "unequal"
    assert found.balance == 0


@pytest.mark.parametrize("divides", ["before", "after"])
def test_a_hook_that_adds_and_divides_averages(tmp_path: Path, divides: str) -> None:
    for sketch, grad in zip(by_rank(tmp_path, hook="train.mean_hook"), (1, 3), strict=True):
        sketch.forward()
        call = sketch.backward(grad, after=2)
        if divides == "before":
            sketch.exchange(grad / 2, 2, call=call)
        else:
            sketch.exchange(grad, 4, call=call)
        sketch.consume(2)
        sketch.close()
    found = explained(tmp_path)

    assert (axis(found).verdict, axis(found).words) == ("mean", "2 ranks, 1/2 each")
    words = [factor.words for factor in found.ledger.rows[0].after]
    assert any(f"mean_hook, {divides} it add" in told for told in words)
    assert found.balance == 0


def test_gradients_added_and_divided_by_hand_are_averaged(tmp_path: Path) -> None:
    for sketch, grad in zip(by_rank(tmp_path, ddp=False), (1, 3), strict=True):
        sketch.backward(grad, after=grad)
        sketch.exchange(grad, 4)
        sketch.consume(2)
        sketch.close()
    found = explained(tmp_path)

    assert (axis(found).verdict, axis(found).words) == ("mean", "2 ranks, 1/2 each")
    assert axis(found).note == "all_reduce by hand, x 1/2 changed by hand"
    assert found.verdict.words == "the mean over all 16 items"


@pytest.mark.parametrize(
    ("op", "factor", "words"),
    [("avg", None, "2 ranks, 1/2 each"), ("premul_sum", 0.5, "2 ranks, 1/2 each")],
)
def test_an_operation_that_averages_needs_no_division(
    tmp_path: Path, op: str, factor: float | None, words: str
) -> None:
    for sketch, grad in zip(by_rank(tmp_path, ddp=False), (1, 3), strict=True):
        sketch.backward(grad, after=grad)
        sketch.exchange(grad, 2, op=op, factor=factor)
        sketch.consume(2)
        sketch.close()
    found = explained(tmp_path)

    assert (axis(found).verdict, axis(found).words) == ("mean", words)


def test_averaged_by_ddp_and_then_again_by_hand_is_divided_once_too_often(tmp_path: Path) -> None:
    for sketch, grad in zip(by_rank(tmp_path), (1, 3), strict=True):
        sketch.forward(divisor=2)
        call = sketch.backward(grad, after=2)
        sketch.exchange(grad / 2, 2, call=call)
        sketch.exchange(2, 4, is_wrapped=False)
        sketch.consume(1)
        sketch.close()
    found = explained(tmp_path)

    # W equal gradients added are W x the mean; divided by 4 in place of 2.
    assert [weight for _, _, weight in weights(found)] == [Fraction(1, 32)] * 2
    assert axis(found).note == "DDP, then all_reduce by hand"
    assert found.balance == 0


def test_a_copy_that_was_reduced_and_never_put_back_changes_nothing(tmp_path: Path) -> None:
    """Logging the norm of the mean gradient."""
    for sketch, grad in zip(by_rank(tmp_path, ddp=False), (1, 3), strict=True):
        sketch.backward(grad, after=grad)
        sketch.exchange(grad, 4, found="values")
        sketch.consume(grad)
        sketch.close()
    found = explained(tmp_path)

    assert weights(found) == [(None, 8, Fraction(1, 8))]
    assert axis(found).verdict == "UNEQUAL"
    assert axis(found).words == "2 ranks, nothing exchanged: rank 1 consumed another gradient"


def test_what_left_must_be_what_entered(tmp_path: Path) -> None:
    for sketch, grad in zip(by_rank(tmp_path, ddp=False), (1, 3), strict=True):
        sketch.backward(grad, after=grad)
        sketch.exchange(grad, 5)
        sketch.consume(5)
        sketch.close()
    found = explained(tmp_path)

    assert axis(found).verdict == "?"
    assert "not what entered, added up" in axis(found).words


def test_a_simulated_job_has_the_factors_of_its_size(tmp_path: Path) -> None:
    sketch = RankSketch(tmp_path, 0, 1024, hook="tracer.mean", simulated=True)
    sketch.forward()
    call = sketch.backward(2.0, after=2 / 1024)
    sketch.exchange(2 / 1024, 2 / 1024, call=call)
    sketch.consume(2 / 1024)
    found = explained(sketch.close())

    assert axis(found).words == "1,024 ranks, 1/1024 each; simulated, all taken to be equal"
    assert axis(found).verdict == "mean"
    assert found.verdict.words == "the mean over all 8,192 items"
    assert found.balance is None


def test_the_picture_shows_the_ranks_meet(tmp_path: Path) -> None:
    place = ddp_job(tmp_path, (1.0, 2.0, 3.0, 6.0, 4.0, 8.0))
    with load_run(place) as run:
        explainer = explainer_of(run)
        picture = explanation_svg(explainer.parameter("w")[-1], explainer.trace)

    for words in ("rank 1, call 1", "rank 3, call 1", "… 2 more ranks", "DDP average over 6 ranks"):
        assert words in picture
    assert "rank 4" not in picture
    assert "|g| 2<" in picture  # this rank's own, in front of the exchange: 4 elements of 1


def drawn(place: Path, output: Path) -> str:
    assert main(["graph", str(place), "-o", str(output)]) == 0
    return output.read_text()


def test_the_graph_of_a_job_shows_where_its_ranks_meet(tmp_path: Path) -> None:
    place = ddp_job(tmp_path, (1.0, 2.0, 3.0, 6.0, 4.0, 8.0))

    picture = drawn(place, tmp_path / "job.svg")

    for words in (
        "rank 0 of 6, which meets the others beneath its parameters", "rank 1", "rank 3",
        "8 items, 1/8 each", "… 2 more ranks", "DDP average over 6 ranks", "×  1/6",
    ):  # fmt: skip
        assert words in picture, words
    assert "rank 4<" not in picture
    assert "DDP average over 6 ranks" in drawn(place, tmp_path / "job.dot")


def test_the_graph_of_one_call_and_of_a_job_that_exchanged_nothing_shows_no_ranks(
    tmp_path: Path,
) -> None:
    for sketch in by_rank(tmp_path, ddp=False):
        sketch.backward(1, after=1)
        sketch.consume(1)
        sketch.close()
    (tmp_path / "ddp").mkdir()
    place = ddp_job(tmp_path / "ddp")

    assert "meets the others" not in drawn(tmp_path, tmp_path / "apart.svg")
    assert main(["graph", str(place), "--backward", "1", "-o", str(tmp_path / "call.svg")]) == 0
    assert "meets the others" not in (tmp_path / "call.svg").read_text()


def test_what_is_wrong_with_ranks_is_in_the_first_lines(tmp_path: Path) -> None:
    ddp_job(tmp_path, (1.0, 3.0, 5.0), missing=[2])
    (tmp_path / "other").mkdir()
    killed = RankSketch(tmp_path / "other", 0, 2).path  # never closed
    with load_run(tmp_path / "run.rank0.trace") as run:
        text = job_text(job_of(run), Ink())

    assert text.splitlines()[0] == "3 ranks (torchrun, gloo), 2 of them here"
    assert text.splitlines()[1].startswith("  rank 2 is missing: ")
    with load_run(killed) as run:
        assert "rank 0 is incomplete: it was killed, or is still at work" in job_text(
            job_of(run), Ink()
        )
