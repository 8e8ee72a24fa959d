"""Which parameter of one run is which of the other."""

from __future__ import annotations

from tracer.analysis.diff.partners import Partners, partners
from tracer.events import Buffer, Shape


def side(*parameters: tuple[str, Shape]) -> dict[str, Buffer]:
    return {
        name: Buffer(id, name, shape, "float32", "cpu")
        for id, (name, shape) in enumerate(parameters)
    }


def matched(found: Partners) -> list[tuple[str, str, str]]:
    return [(pair.name_a, pair.name_b, pair.how) for pair in found.pairs]


def test_names_come_first_whatever_their_order() -> None:
    found = partners(side(("a.w", (2,)), ("b.w", (2,))), side(("b.w", (2,)), ("a.w", (2,))))

    assert matched(found) == [("a.w", "a.w", "name"), ("b.w", "b.w", "name")]


def test_wrappers_are_looked_through() -> None:
    found = partners(
        side(("layer.w", (2,)), ("head.w", (2,))),
        side(("module.layer.w", (2,)), ("_orig_mod.head.w", (2,))),
    )

    assert matched(found) == [
        ("layer.w", "module.layer.w", "wrapper"),
        ("head.w", "_orig_mod.head.w", "wrapper"),
    ]


def test_the_variable_that_holds_the_model_may_be_another() -> None:
    found = partners(side(("model.fc.w", (2,))), side(("net.fc.w", (2,))))

    assert matched(found) == [("model.fc.w", "net.fc.w", "end")]


def test_a_model_inside_another_is_matched_by_the_end_of_its_names_in_any_order() -> None:
    found = partners(side(("net.a.w", (2,)), ("net.b.w", (2,))), side(("b.w", (2,)), ("a.w", (2,))))

    assert matched(found) == [("net.a.w", "a.w", "end"), ("net.b.w", "b.w", "end")]


def test_renamed_parameters_are_matched_by_shape_and_order() -> None:
    found = partners(
        side(("a.weight", (2, 3)), ("a.bias", (2,)), ("b.weight", (2, 3))),
        side(("x.weight", (2, 3)), ("x.bias", (2,)), ("y.weight", (2, 3))),
    )

    assert [(a, b) for a, b, _ in matched(found)] == [
        ("a.weight", "x.weight"), ("a.bias", "x.bias"), ("b.weight", "y.weight"),
    ]  # fmt: skip
    assert {how for _, _, how in matched(found)} == {"shape"}


def test_a_bias_is_no_weight_of_the_same_shape() -> None:
    found = partners(side(("a.bias", (2,))), side(("x.weight", (2,))))

    assert found == Partners((), ("a.bias",), ("x.weight",))


def test_one_layer_more_is_left_over() -> None:
    found = partners(
        side(("a.w", (2,)), ("c.w", (3,))), side(("a.w", (2,)), ("b.w", (5,)), ("c.w", (3,)))
    )

    assert [a for a, _, _ in matched(found)] == ["a.w", "c.w"]
    assert (found.only_a, found.only_b) == ((), ("b.w",))


def test_one_name_with_two_shapes_is_said() -> None:
    found = partners(side(("head.w", (10, 4))), side(("head.w", (20, 4))))

    assert found.pairs == ()
    assert found.reshaped == (("head.w", (10, 4), (20, 4)),)
