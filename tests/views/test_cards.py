"""What stands on a node: sums with how many, averages with 1/n, factors, and nothing made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph.sketch import Grad, Op, Sent, Sketch, blocks, repeated
from tests.graph.test_replicas import replicated, two_replicas
from tracer.graph.build import build
from tracer.graph.fold import fold
from tracer.views.cards import Card, cards


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hand.trace"


def pills(card: Card) -> list[tuple[str, str]]:
    return [(pill.kind, " ".join(pill.text.split())) for pill in card.pills]


def texts(card: Card) -> list[str]:
    return [" ".join(row.text.split()) for row in card.rows if row.text]


SCALAR = Grad(())


def operation(path: Path, operation: Op, *sent: Grad, root: Grad = SCALAR) -> Card:
    """The card of one operation that sends these along its outputs."""
    sketch = Sketch(path)
    leaves = [sketch.buffer(f"w{n}", grad.shape) for n, grad in enumerate(sent)]
    edges: list[Sent] = [((0, n), n + 1, grad) for n, grad in enumerate(sent)]
    ends = [Op("AccumulateGrad", buffer=leaf) for leaf in leaves]
    sketch.call([operation, *ends], edges, root=root)
    return cards(fold(build(sketch.close())))["c1.n0"]


def test_a_mean_says_one_over_n(path: Path) -> None:
    card = operation(path, Op("MeanBackward0", 14), Grad((16,), 1 / 16))

    assert pills(card) == [("averaged", "mean 1/16")]
    assert texts(card) == ["Mean"]
    assert card.rows[0].beside == "line 14"


def test_a_sum_says_over_how_many(path: Path) -> None:
    card = operation(path, Op("SumBackward0"), Grad((16,), 1.0))

    assert pills(card) == [("summed", "Σ over 16 items")]


def test_a_broadcast_says_how_many_are_added(path: Path) -> None:
    card = operation(path, Op("MulBackward0"), Grad((1,), 16.0), root=Grad((16, 1)))

    assert pills(card) == [("summed", "Σ of 16")]


def test_a_factor_is_exact(path: Path) -> None:
    card = operation(path, Op("DivBackward0", saved={"other": 65536.0}), Grad((), 2.0**-16))

    assert pills(card) == [("scaled", "× 1/65536")]


def test_what_merely_moves_is_quiet(path: Path) -> None:
    card = operation(path, Op("TBackward0"), Grad((2, 3)), root=Grad((3, 2)))

    assert (card.face, pills(card), texts(card)) == ("chain", [], ["T"])


def test_what_has_no_rule_is_said_to_be_opaque(path: Path) -> None:
    card = operation(path, Op("FocalBackward", custom="losses.Focal"), Grad((2,)))

    assert card.face == "opaque"
    assert pills(card) == [("opaque", "opaque")]


def test_a_hook_of_the_script_is_marked(path: Path) -> None:
    card = operation(path, Op("TBackward0", hooks=(1, 0, 0)), Grad((2,)), root=Grad((2,)))

    assert pills(card) == [("hooked", "1 hook")]


def test_a_buffer_says_how_many_calls_are_added_and_what_became_of_it(path: Path) -> None:
    card = cards(fold(build(repeated(path))))["b0"]

    assert pills(card) == [("summed", "Σ 3 calls")]
    assert texts(card) == ["w", ".grad 1 → 2 → 3"]


def test_what_lay_in_a_buffer_before_is_added_to(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    sketch.call(
        [Op("SumBackward0"), Op("AccumulateGrad", buffer=w)],
        [(0, 1, Grad((1,)))],
        before={w: Grad((1,), 5.0)},
        after={w: Grad((1,), 6.0)},
    )
    card = cards(fold(build(sketch.close())))["b0"]

    assert pills(card) == [("summed", "Σ onto what was there")]


def test_calls_into_an_empty_buffer_are_not_said_to_be_added(path: Path) -> None:
    sketch = Sketch(path)
    w = sketch.buffer("w")
    for _ in range(2):
        sketch.call([Op("SumBackward0"), Op("AccumulateGrad", buffer=w)], [(0, 1, Grad((1,)))])
    card = cards(fold(build(sketch.close())))["b0"]

    assert pills(card) == [("note", "2 calls, emptied between")]


def test_means_of_different_calls_show_each_share(path: Path) -> None:
    sketch = Sketch(path)
    root = sketch.module("Net", variable="net")
    w = sketch.buffer("weight", (2,), root)
    for count in (9, 7):
        sketch.call(
            [
                Op("MeanBackward0", 9),
                Op("MmBackward0", 4, root),
                Op("AccumulateGrad", buffer=w),
            ],
            [(0, 1, Grad((count,), 1 / count)), ((1, 1), 2, Grad((2,)))],
            before={w: Grad((2,))} if count == 7 else {},
        )
    card = cards(fold(build(sketch.close()), depth=0))["c1.n0"]

    assert pills(card) == [("averaged", "mean 1/9, 1/7")]


def test_a_module_shows_the_sum_at_its_entrance_and_its_norms(path: Path) -> None:
    shown = cards(fold(build(blocks(path, count=12)), depth=2))
    block = shown["module:model.blocks.[0-11]"]

    assert texts(block)[0] == "blocks.[0-11] × 12"
    assert block.rows[0].beside == "Block" or block.rows[1].beside == "Block"
    assert block.layers == 3


def test_the_sum_between_equal_blocks_is_seen(path: Path) -> None:
    shown = cards(fold(build(blocks(path, count=12)), depth=3))
    add = next(card for card in shown.values() if "Add" in texts(card))

    assert ("summed", "Σ 2 contributions") in pills(add)


def test_the_parameters_of_a_module_say_calls_and_terms(path: Path) -> None:
    leaf = cards(fold(build(blocks(path, count=12)), depth=2))["leaf:model.blocks.[0-11]"]

    assert ("summed", "Σ 2 calls") in pills(leaf)
    assert texts(leaf) == ["weight × 12"]


def test_replicas_are_added_at_the_parameters(path: Path) -> None:
    leaf = cards(fold(build(two_replicas(path, layers=9)), depth=1))["leaf:net.fc3"]

    assert ("summed", "Σ 2 replicas") in pills(leaf)


def test_gather_and_scatter_say_the_sizes_of_the_chunks(path: Path) -> None:
    graph = build(replicated(path, layers=2, chunks=(3, 3, 2), scatters=True))
    shown = cards(fold(graph, depth=1)).values()
    written = [text for card in shown for text in texts(card)]

    assert "Gather 3 + 3 + 2" in written
    assert "Scatter 3 + 3 + 2" in written
    assert any("chunks of 3 + 3 + 2" in card.tip for card in shown)


def test_everything_written_fits_on_its_card(path: Path) -> None:
    graph = build(blocks(path, count=12))
    for depth in (None, 0, 1, 2, 3, 9):
        for card in cards(fold(graph, depth=depth)).values():
            assert all(row.width <= card.width for row in card.rows)
            assert sum(row.height for row in card.rows) <= card.height
