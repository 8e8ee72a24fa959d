"""How a node finds its rule."""

from __future__ import annotations

import pytest

from tracer.semantics import (
    Broadcasts,
    Moves,
    NodeFacts,
    Nothing,
    Opaque,
    Scales,
    custom,
    effect_of,
    effects_of,
)
from tracer.semantics.registry import _CUSTOM, opaque, rule


@pytest.fixture(autouse=True)
def _same_table_afterwards():
    before = dict(_CUSTOM)
    yield
    _CUSTOM.clear()
    _CUSTOM.update(before)


def test_a_second_rule_for_a_name_raises():
    with pytest.raises(ValueError, match="second rule for MeanBackward0"):
        rule("MeanBackward0")(lambda node: Moves())


def test_a_reason_beside_a_rule_raises():
    with pytest.raises(ValueError, match="second rule for MeanBackward0"):
        opaque("no reason", "MeanBackward0")


def test_an_unknown_name_is_opaque_by_name():
    node = NodeFacts("NeverSeenBackward7", received=((2,),), sent=((2,),))

    assert effect_of(node) == Opaque("no rule for NeverSeenBackward7")


def test_an_output_without_gradient_has_no_effect():
    node = NodeFacts("CatBackward0", received=((4,),), sent=((2,), None))

    assert effects_of(node) == (Moves(claims="together"), Nothing())


def test_a_node_that_sent_nothing_still_has_an_effect():
    node = NodeFacts("AccumulateGrad", received=((4,),))

    assert effects_of(node) == ()
    assert effect_of(node) == Moves()


def test_outputs_at_the_end_may_be_missing():
    node = NodeFacts("MulBackward0", received=((4,),), sent=((4,),), saved={"other": 2.0})

    assert effects_of(node) == (Scales(by=2),)


def test_outputs_that_differ_have_no_common_effect():
    node = NodeFacts("SubBackward0", received=((4,),), sent=((4,), (4,)), saved={"alpha": 1})

    assert effects_of(node) == (Moves(), Scales(by=-1))
    assert isinstance(effect_of(node), Opaque)


def test_more_outputs_than_the_rule_knows_are_opaque():
    node = NodeFacts("MmBackward0", received=((2, 2),), sent=((2, 2),) * 3)

    assert effects_of(node)[2] == Opaque("MmBackward0 has more outputs than its rule knows")


@pytest.mark.parametrize("name", ["torch::autograd::AccumulateGrad", "AccumulateGrad"])
def test_namespaces_do_not_matter(name):
    assert effect_of(NodeFacts(name)) == Moves()


def test_a_copying_view_is_the_same_mathematics():
    node = NodeFacts("ViewBackward0_copy", received=((4,),), sent=((2, 2),))

    assert effect_of(node) == Moves()


def test_a_custom_function_is_opaque_until_registered():
    node = NodeFacts("FocalBackward", ((),), ((8,),), custom="my.losses.Focal")

    assert effect_of(node) == Opaque("no rule for the autograd.Function my.losses.Focal")

    @custom("my.losses.Focal")
    def focal(node: NodeFacts) -> Broadcasts:
        """Sums its items."""
        return Broadcasts(over=8)

    assert effect_of(node) == Broadcasts(over=8)


def test_a_second_rule_for_a_custom_function_raises():
    custom("my.losses.Focal")(lambda node: Moves())

    with pytest.raises(ValueError, match=r"second rule for .* my\.losses\.Focal"):
        custom("my.losses.Focal")(lambda node: Moves())


def test_a_namesake_of_a_function_of_torch_is_not_taken_for_it():
    theirs = NodeFacts("BroadcastBackward", ((2,),) * 2, ((2,),), custom="my.ops.Broadcast")
    torchs = NodeFacts(
        "BroadcastBackward", ((2,),) * 2, ((2,),), custom="torch.nn.parallel._functions.Broadcast"
    )

    assert effect_of(theirs).kind == "opaque"
    assert effect_of(torchs).kind == "reduces"


def test_names_are_those_of_the_public_functions():
    import tracer.semantics as semantics

    assert sorted(semantics.__all__) == semantics.__all__
    assert all(hasattr(semantics, name) for name in semantics.__all__)


def test_an_operator_of_the_users_library_is_opaque_with_a_reason():
    home = "torch._library.autograd.GeneratedBackwardFor_mine"
    node = NodeFacts("GeneratedBackwardFor_mine", ((2,),), ((2,),), custom=home)

    assert "torch.library" in effect_of(node).reason
