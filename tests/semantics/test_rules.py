"""What the rules say of nodes made by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tracer.semantics import (
    Averages,
    Broadcasts,
    Contracts,
    Distributes,
    Elementwise,
    Gathers,
    LossReduction,
    Moves,
    NodeFacts,
    Normalises,
    Opaque,
    Reduces,
    Replicates,
    Scales,
    ScatterAdds,
    Scatters,
    Selects,
    Sums,
    effect_of,
    effects_of,
)

IGNORE = 2**64 - 100
NO_PADDING = 2**64 - 1


def facts(name, received, *sent, **saved):
    return NodeFacts(name, received=(received,), sent=sent, saved=saved)


# --- reductions


def test_mean_divides_by_the_elements_it_averaged():
    assert effect_of(facts("MeanBackward1", (2,), (2, 3))) == Averages(over=3)


def test_mean_of_everything_divides_by_all_elements():
    assert effect_of(facts("MeanBackward0", (), (2, 3))) == Averages(over=6)


def test_a_mean_with_unknown_shapes_is_opaque():
    assert effect_of(NodeFacts("MeanBackward0")).kind == "opaque"


def test_sum_sends_the_same_to_each_of_its_elements():
    assert effect_of(facts("SumBackward1", (2, 1), (2, 3))) == Broadcasts(over=3)


def test_max_over_a_dimension_sends_to_the_largest():
    assert effect_of(facts("MaxBackward0", (2,), (2, 3))) == Selects()


def test_max_of_everything_divides_among_the_largest():
    assert effect_of(facts("MaxBackward1", (), (2, 3))) == Distributes()


# --- scaling


def test_a_bias_that_was_broadcast_sums():
    node = facts("AddBackward0", (8, 3), (8, 3), (3,), alpha=1)

    assert effects_of(node) == (Moves(), Sums(over=8))


def test_alpha_scales_the_second_operand():
    node = facts("AddBackward0", (8, 3), (8, 3), (1, 3), alpha=0.5)

    assert effects_of(node) == (Moves(), Scales(by=Fraction(1, 2), then_sums=8))


def test_alpha_that_was_not_recorded_is_not_guessed():
    assert effects_of(facts("AddBackward0", (3,), (3,), (3,)))[1].kind == "opaque"


def test_a_subtrahend_changes_its_sign():
    node = facts("SubBackward0", (8, 3), (8, 3), (3,), alpha=1)

    assert effects_of(node) == (Moves(), Scales(by=-1, then_sums=8))


def test_a_residual_that_was_broadcast_by_accident_sums_both_operands():
    node = facts("SubBackward0", (4, 4), (4, 1), (4,), alpha=1)

    assert effects_of(node) == (Sums(over=4), Scales(by=-1, then_sums=4))


def test_rsub_negates_the_first_operand():
    assert effects_of(facts("RsubBackward1", (3,), (3,), alpha=1)) == (Scales(by=-1),)


def test_multiplying_by_a_number_scales():
    node = facts("MulBackward0", (3,), (3,), None, other=0.5)

    assert effect_of(node) == Scales(by=Fraction(1, 2))


def test_multiplying_by_a_tensor_acts_elementwise_and_sums_what_was_broadcast():
    node = facts("MulBackward0", (8, 3), (8, 3), (3,))

    assert effects_of(node) == (Elementwise(), Elementwise(then_sums=8))


def test_a_learned_temperature_scales_the_logits_and_sums_for_itself():
    node = facts("MulBackward0", (8, 3), (8, 3), (), other=10.0)

    assert effects_of(node) == (Scales(by=10), Elementwise(then_sums=24))


def test_dividing_by_a_count_scales_by_one_over_it():
    assert effect_of(facts("DivBackward0", (), (), None, other=3)) == Scales(by=Fraction(1, 3))


def test_dividing_by_one_only_moves():
    assert effect_of(facts("DivBackward0", (), (), None, other=1.0)) == Moves()


def test_dividing_by_nothing_claims_nothing():
    assert effect_of(facts("DivBackward0", (), (), None, other=0.0)) == Elementwise()


def test_a_rounded_quotient_sends_nothing():
    node = facts("DivBackward2", (3,), (3,), None, other=2.0, rounding_mode="floor")

    assert effect_of(node) == Scales(by=0)


def test_a_quotient_that_may_have_been_rounded_is_opaque():
    assert effect_of(facts("DivBackward2", (3,), (3,), None, other=2.0)).kind == "opaque"


def test_negation():
    assert effect_of(facts("NegBackward0", (3,), (3,))) == Scales(by=-1)


# --- shapes


@pytest.mark.parametrize(
    "name", ["ViewBackward0", "PermuteBackward0", "ToCopyBackward0", "CloneBackward0"]
)
def test_views_and_copies_move(name):
    assert effect_of(facts(name, (6,), (2, 3))) == Moves()


def test_an_expansion_sums_its_copies():
    assert effect_of(facts("ExpandBackward0", (8, 3), (3,))) == Sums(over=8)


def test_an_expansion_that_copied_nothing_moves():
    assert effect_of(facts("ExpandBackward0", (8, 3), (8, 3))) == Moves()


def test_the_parts_of_a_cat_share_the_gradient():
    assert effect_of(facts("CatBackward0", (5,), (2,), (3,))) == Moves(claims="together")


def test_what_was_overwritten_gets_nothing():
    assert effects_of(facts("CopyBackwards", (3,), (3,), (3,))) == (Scales(by=0), Moves())


# --- indexing


def test_an_embedding_adds_at_its_indices():
    node = facts(
        "EmbeddingBackward0", (2, 5, 4), (9, 4), padding_idx=NO_PADDING, scale_grad_by_freq=False
    )

    assert effect_of(node) == ScatterAdds()


def test_an_embedding_with_padding_loses_some():
    node = facts("EmbeddingBackward0", (2, 4), (9, 4), padding_idx=0, scale_grad_by_freq=False)

    assert effect_of(node) == ScatterAdds(claims="nothing")


def test_where_sends_each_element_to_one_side():
    node = facts("WhereBackward0", (8, 3), (8, 3), ())

    assert effects_of(node) == (
        Selects(claims="together"),
        Selects(claims="together", then_sums=24),
    )


# --- products


def test_a_linear_layer_contracts_and_its_bias_sums_over_the_rows():
    node = facts("AddmmBackward0", (64, 10), (10,), (64, 32), (32, 10), alpha=1, beta=1)

    assert effects_of(node) == (Sums(over=64), Contracts(over=10), Contracts(over=64))


def test_a_batch_of_products_contracts_within_each():
    node = facts("BmmBackward0", (4, 5, 6), (4, 5, 7), (4, 7, 6))

    assert effects_of(node) == (Contracts(over=6), Contracts(over=5))


def test_a_convolution_adds_up_items_and_places():
    node = facts(
        "ConvolutionBackward0", (8, 16, 5, 5), None, (16, 3, 3, 3), (16,), transposed=False
    )

    assert effects_of(node)[1:] == (Contracts(over=200), Sums(over=200))


def test_a_transposed_convolution_uses_its_weight_at_the_places_of_the_input():
    node = facts(
        "ConvolutionBackward0", (8, 3, 10, 10), (8, 16, 5, 5), (16, 3, 2, 2), (3,), transposed=True
    )

    assert effects_of(node) == (Contracts(), Contracts(over=200), Sums(over=800))


# --- normalisation


def test_batch_norm_in_training_couples_its_items():
    node = facts("NativeBatchNormBackward0", (8, 3, 2, 2), (8, 3, 2, 2), (3,), (3,), training=True)

    assert effects_of(node) == (Normalises(), Elementwise(then_sums=32), Sums(over=32))


def test_batch_norm_in_evaluation_scales_each_channel():
    node = facts("NativeBatchNormBackward0", (8, 3), (8, 3), (3,), (3,), training=False)

    assert effects_of(node) == (Elementwise(), Elementwise(then_sums=8), Sums(over=8))


def test_batch_norm_in_an_unknown_mode_is_opaque_for_its_input_only():
    node = facts("NativeBatchNormBackward0", (8, 3), (8, 3), (3,), (3,))

    assert [effect.kind for effect in effects_of(node)] == ["opaque", "elementwise", "sums"]


def test_the_statistics_of_a_norm_spoil_its_laws():
    node = NodeFacts("NativeLayerNormBackward0", ((8, 3), (8, 1)), ((8, 3), (3,), (3,)))

    assert [effect.sum_factor for effect in effects_of(node)] == [None, None, None]


def test_softmax_sends_gradients_that_add_up_to_nothing():
    assert effect_of(facts("SoftmaxBackward0", (8, 3), (8, 3))).sum_factor == 0


# --- pooling


POOL = {"kernel_size": (2, 2), "stride": (2, 2), "ceil_mode": False, "count_include_pad": True}


def test_average_pooling_divides_by_its_window():
    node = facts("AvgPool2DBackward0", (1, 1, 2, 2), (1, 1, 4, 4), **POOL, padding=(0, 0))

    assert effect_of(node) == Averages(over=4)


def test_average_pooling_loses_what_goes_to_the_padding():
    node = facts("AvgPool2DBackward0", (1, 1, 3, 3), (1, 1, 4, 4), **POOL, padding=(1, 1))

    assert effect_of(node) == Averages(over=4, claims="nothing")


def test_adaptive_pooling_to_one_is_a_mean():
    node = facts("AdaptiveAvgPool2DBackward0", (8, 3, 1, 1), (8, 3, 7, 7))

    assert effect_of(node) == Averages(over=49)


def test_adaptive_pooling_that_does_not_divide_spreads():
    node = facts("AdaptiveAvgPool2DBackward0", (8, 3, 2, 2), (8, 3, 7, 7))

    assert effect_of(node) == Distributes()


def test_upsampling_by_a_whole_number_sums_its_copies():
    node = facts(
        "UpsampleNearest2DBackward0", (1, 1, 4, 4), (1, 1, 2, 2), scales_h=2.0, scales_w=2.0
    )

    assert effect_of(node) == Sums(over=4)


def test_upsampling_by_an_unknown_scale_does_not_count():
    node = facts("UpsampleNearest2DBackward0", (1, 1, 4, 4), (1, 1, 2, 2))

    assert effect_of(node) == ScatterAdds()


# --- losses


def test_a_mean_squared_error_divides_by_all_elements():
    node = facts("MseLossBackward0", (), (8, 3), None, reduction=1)

    assert effect_of(node) == LossReduction("mean", over=24, items=24)


def test_a_summed_loss_divides_by_nothing():
    node = facts("MseLossBackward0", (), (8, 3), None, reduction=2)

    assert effect_of(node) == LossReduction("sum", over=24, items=24)


def test_a_loss_without_reduction_is_one_per_item():
    node = facts("MseLossBackward0", (8, 3), (8, 3), None, reduction=0)

    assert effect_of(node) == LossReduction("none", over=1, items=24)


def test_a_loss_whose_reduction_is_not_known_is_opaque():
    assert effect_of(facts("MseLossBackward0", (), (8, 3), None)).kind == "opaque"


def test_cross_entropy_divides_by_the_targets_it_did_not_ignore():
    node = facts(
        "NllLossBackward0", (), (8, 10), reduction=1, total_weight=6.0, weight=None,
        ignore_index=IGNORE,
    )  # fmt: skip

    assert effect_of(node) == LossReduction("mean", over=6, items=8)


def test_class_weights_make_a_weighted_mean():
    node = facts("NllLossBackward0", (), (8, 10), reduction=1, total_weight=2.5)

    assert effect_of(node) == LossReduction("weighted-mean", over=Fraction(5, 2), items=8)


def test_class_weights_that_happen_to_add_up_are_not_told_from_none():
    node = facts("NllLossBackward0", (), (8, 10), reduction=1, total_weight=8.0)

    assert effect_of(node) == LossReduction("mean", over=8, items=8)


def test_a_denominator_that_was_not_recorded_is_not_guessed():
    node = facts("NllLossBackward0", (), (8, 10), reduction=1)

    assert effect_of(node) == LossReduction("mean", over=None, items=8)


def test_the_items_of_a_dense_cross_entropy_are_its_pixels():
    node = facts("NllLoss2DBackward0", (), (2, 10, 4, 4), reduction=2)

    assert effect_of(node) == LossReduction("sum", over=32, items=32)


# --- attention


def test_attention_without_mask_and_dropout_averages_its_values():
    node = facts(
        "ScaledDotProductFlashAttentionForCpuBackward0", (1, 2, 5, 4),
        (1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4), dropout_p=0.0, attn_mask=None,
    )  # fmt: skip

    assert effects_of(node) == (Contracts(over=7), Normalises(), Distributes())


def test_attention_with_a_mask_makes_no_claim_for_its_values():
    node = facts(
        "ScaledDotProductFlashAttentionForCpuBackward0", (1, 2, 5, 4), None, None, (1, 2, 7, 4),
        dropout_p=0.0,
    )  # fmt: skip

    assert effects_of(node)[2] == Distributes(claims="nothing")


# --- data parallel


def test_broadcast_adds_the_gradients_of_the_replicas():
    node = NodeFacts("BroadcastBackward", ((3, 2), (3,)) * 4, ((3, 2), (3,)))

    assert effect_of(node) == Reduces(over=4, claims="together")


def test_replicas_are_not_counted_where_parameters_are_missing():
    node = NodeFacts("BroadcastBackward", ((3, 2), (3,), (5,)) * 2, ((3, 2), (3,)))

    assert effect_of(node) == Reduces(over=None, claims="together")


def test_gather_sends_each_replica_its_chunk():
    node = NodeFacts("GatherBackward", ((8,),), ((4,), (4,)))

    assert effect_of(node) == Scatters(claims="together")


def test_scatter_puts_the_chunks_together():
    assert effect_of(NodeFacts("ScatterBackward", ((4,), (4,)), ((8,),))) == Gathers()


def test_the_adjoint_of_adding_replicas_copies():
    node = NodeFacts("ReduceAddCoalescedBackward", ((3,),), ((3,), (3,)))

    assert effect_of(node) == Replicates(over=2)


# --- opaque


@pytest.mark.parametrize(
    "name",
    ["CopySlices", "CheckpointFunctionBackward", "CompiledFunctionBackward", "LinalgSvdBackward0"],
)
def test_what_cannot_be_said_has_a_reason(name):
    effect = effect_of(NodeFacts(name, ((2,),), ((2,),)))

    assert isinstance(effect, Opaque)
    assert effect.reason
    assert not effect.reason.startswith("no rule")
