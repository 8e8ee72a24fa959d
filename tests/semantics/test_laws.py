"""The claims of the rules against the numbers of real torch, operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.semantics.observe import Observation, broken_laws, checks_of, observe  # noqa: E402
from tracer.semantics import (  # noqa: E402
    Averages,
    Broadcasts,
    Contracts,
    Distributes,
    Effect,
    Elementwise,
    LossReduction,
    Moves,
    Normalises,
    Scales,
    ScatterAdds,
    Selects,
    Sums,
    effects_of,
)

F = torch.nn.functional


def leaf(*shape: int) -> Any:
    return (torch.rand(*shape, dtype=torch.float64) + 0.1).requires_grad_()


def run(root: Any) -> list[Observation]:
    roots = [root] if isinstance(root, torch.Tensor) else list(root)
    return observe(roots, [torch.rand_like(one) + 0.1 for one in roots])


def effects_at(seen: list[Observation], name: str) -> tuple[Effect, ...]:
    return next(effects_of(one.facts) for one in seen if one.facts.name == name)


def images(*channels: int) -> Any:
    return leaf(2, *(channels or (4,)), 6, 6)


def written_in_place() -> Any:
    target = leaf(3).clone()
    target.copy_(leaf(3))
    return target


def overwritten_by_a_number() -> Any:
    target = leaf(3) * 2
    target.fill_(leaf(1).sum())
    return target


def compared_in_place() -> Any:
    target = leaf(3) * 2
    target.gt_(0.5)
    return target * leaf(3)


def attended(**options: Any) -> Any:
    return F.scaled_dot_product_attention(
        leaf(2, 2, 5, 4), leaf(2, 2, 7, 4), leaf(2, 2, 7, 4), **options
    )


EXPECTED: dict[str, tuple[Callable[[], Any], str, tuple[Effect, ...]]] = {
    "mean": (lambda: leaf(2, 3).mean(), "MeanBackward0", (Averages(over=6),)),
    "mean over rows": (lambda: leaf(2, 3).mean(0), "MeanBackward1", (Averages(over=2),)),
    "sum": (lambda: leaf(2, 3).sum(), "SumBackward0", (Broadcasts(over=6),)),
    "sum over columns": (lambda: leaf(2, 3).sum(1), "SumBackward1", (Broadcasts(over=3),)),
    "trace": (lambda: leaf(3, 4).trace(), "TraceBackward0", (Broadcasts(over=3),)),
    "logsumexp": (lambda: leaf(2, 3).logsumexp(1), "LogsumexpBackward0", (Distributes(),)),
    "max": (lambda: leaf(2, 3).max(1).values, "MaxBackward0", (Selects(),)),
    "add a row": (
        lambda: leaf(4, 3) + leaf(3),
        "AddBackward0",
        (Moves(), Sums(over=4)),
    ),
    "subtract twice a row": (
        lambda: torch.sub(leaf(4, 3), leaf(3), alpha=2),
        "SubBackward0",
        (Moves(), Scales(by=Fraction(-2), then_sums=4)),
    ),
    "one minus": (lambda: 1 - leaf(3), "RsubBackward1", (Scales(by=Fraction(-1)),)),
    "times a half": (
        lambda: leaf(3) * 0.5,
        "MulBackward0",
        (Scales(by=Fraction(1, 2)),),
    ),
    "over a count": (lambda: leaf(3) / 8, "DivBackward0", (Scales(by=Fraction(1, 8)),)),
    "times a row": (
        lambda: leaf(4, 3) * leaf(3),
        "MulBackward0",
        (Elementwise(), Elementwise(then_sums=4)),
    ),
    "interpolate": (
        lambda: torch.lerp(leaf(3), leaf(3), 0.25),
        "LerpBackward0",
        (Scales(by=Fraction(3, 4)), Scales(by=Fraction(1, 4))),
    ),
    "expand": (lambda: leaf(3).expand(4, 3) * 1, "ExpandBackward0", (Sums(over=4),)),
    "repeat": (lambda: leaf(3).repeat(2, 2), "RepeatBackward0", (Sums(over=4),)),
    "cat": (
        lambda: torch.cat([leaf(2), leaf(3)]),
        "CatBackward0",
        (Moves(claims="together"),) * 2,
    ),
    "index": (lambda: leaf(5)[[0, 0, 3]], "IndexBackward0", (ScatterAdds(),)),
    "embedding": (
        lambda: F.embedding(torch.tensor([0, 2, 0]), leaf(4, 3)),
        "EmbeddingBackward0",
        (ScatterAdds(),),
    ),
    "embedding with padding": (
        lambda: F.embedding(torch.tensor([0, 2, 0]), leaf(4, 3), padding_idx=0),
        "EmbeddingBackward0",
        (ScatterAdds(claims="nothing"),),
    ),
    "linear": (
        lambda: F.linear(leaf(8, 5), leaf(3, 5), leaf(3)),
        "AddmmBackward0",
        (Sums(over=8), Contracts(over=3), Contracts(over=8)),
    ),
    "matrix product": (
        lambda: leaf(8, 5) @ leaf(5, 3),
        "MmBackward0",
        (Contracts(over=3), Contracts(over=8)),
    ),
    "convolution": (
        lambda: F.conv2d(images(), leaf(3, 4, 3, 3), leaf(3)),
        "ConvolutionBackward0",
        (Contracts(), Contracts(over=32), Sums(over=32)),
    ),
    "batch norm": (
        lambda: F.batch_norm(images(), None, None, leaf(4), leaf(4), training=True),
        "NativeBatchNormBackward0",
        (Normalises(), Elementwise(then_sums=72), Sums(over=72)),
    ),
    "layer norm": (
        lambda: F.layer_norm(leaf(5, 4), (4,), leaf(4), leaf(4)),
        "NativeLayerNormBackward0",
        (Normalises(), Elementwise(then_sums=5), Sums(over=5)),
    ),
    "group norm": (
        lambda: F.group_norm(images(), 2, leaf(4), leaf(4)),
        "NativeGroupNormBackward0",
        (Normalises(), Elementwise(then_sums=72), Sums(over=72)),
    ),
    "softmax": (lambda: leaf(2, 3).softmax(1), "SoftmaxBackward0", (Normalises(),)),
    "log softmax": (lambda: leaf(2, 3).log_softmax(1), "LogSoftmaxBackward0", (Normalises(),)),
    "average pooling": (
        lambda: F.avg_pool2d(images(), 2),
        "AvgPool2DBackward0",
        (Averages(over=4),),
    ),
    "overlapping average pooling": (
        lambda: F.avg_pool2d(images(), 3, stride=1),
        "AvgPool2DBackward0",
        (Averages(over=9),),
    ),
    "padded average pooling": (
        lambda: F.avg_pool2d(images(), 3, padding=1),
        "AvgPool2DBackward0",
        (Averages(over=9, claims="nothing"),),
    ),
    "average pooling that leaves the padding out": (
        lambda: F.avg_pool2d(images(), 3, padding=1, count_include_pad=False),
        "AvgPool2DBackward0",
        (Distributes(),),
    ),
    "adaptive pooling": (
        lambda: F.adaptive_avg_pool2d(images(), 2),
        "AdaptiveAvgPool2DBackward0",
        (Averages(over=9),),
    ),
    "uneven adaptive pooling": (
        lambda: F.adaptive_avg_pool2d(images(), 4),
        "AdaptiveAvgPool2DBackward0",
        (Distributes(),),
    ),
    "max pooling": (
        lambda: F.max_pool2d(images(), 2),
        "MaxPool2DWithIndicesBackward0",
        (Selects(),),
    ),
    "upsampling": (
        lambda: F.interpolate(images(), scale_factor=2),
        "UpsampleNearest2DBackward0",
        (Sums(over=4),),
    ),
    "uneven upsampling": (
        lambda: F.interpolate(leaf(1, 1, 2), scale_factor=2.4),
        "UpsampleNearest1DBackward0",
        (ScatterAdds(),),
    ),
    "bilinear upsampling": (
        lambda: F.interpolate(images(), scale_factor=2, mode="bilinear"),
        "UpsampleBilinear2DBackward0",
        (Distributes(),),
    ),
    "attention": (
        attended,
        "ScaledDotProductFlashAttentionForCpuBackward0",
        (Contracts(over=7), Normalises(), Distributes()),
    ),
    "causal attention": (
        lambda: attended(is_causal=True),
        "ScaledDotProductFlashAttentionForCpuBackward0",
        (Contracts(over=7), Normalises(), Distributes()),
    ),
    "copy into": (written_in_place, "torch::autograd::CopyBackwards", (Scales(by=0), Moves())),
    "fill": (overwritten_by_a_number, "FillBackward3", (Scales(by=0), Sums(over=3))),
    "compare in place": (compared_in_place, "GtBackward0", (Scales(by=Fraction(0)),)),
    "rms norm by hand": (
        lambda: F.rms_norm(leaf(5, 4), (4,)),
        "RsqrtBackward0",
        (Elementwise(),),
    ),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_the_effect_is_as_expected_and_its_laws_hold(case):
    build, name, effects = EXPECTED[case]

    seen = run(build())

    found = effects_at(seen, name)
    assert found[: len(effects)] == effects
    assert {effect.kind for effect in found[len(effects) :]} <= {"nothing"}
    assert [problem for one in seen for problem in broken_laws(one)] == []


ALSO: dict[str, Callable[[], Any]] = {
    "unfold": lambda: F.unfold(images(), 3),
    "padded unfold": lambda: F.unfold(images(), 3, padding=1),
    "fold": lambda: F.fold(leaf(1, 9, 16), (6, 6), 3),
    "windows": lambda: leaf(7).unfold(0, 3, 1),
    "grid": lambda: F.affine_grid(leaf(1, 2, 3), [1, 3, 4, 4], align_corners=True),
    "sample": lambda: F.grid_sample(images(), leaf(2, 3, 3, 2), align_corners=False),
    "lanczos or bicubic": lambda: F.interpolate(images(), size=4, mode="bicubic", antialias=True),
    "weight norm": lambda: torch._weight_norm(leaf(3, 4), leaf(3, 1)),
    "packed": lambda: torch._pack_padded_sequence(leaf(5, 2, 3), torch.tensor([5, 3]), False)[0],
    "dropout": lambda: F.dropout(leaf(30), 0.5),
    "native dropout": lambda: torch.native_dropout(leaf(30), 0.5, True)[0],
    "transposed convolution": lambda: F.conv_transpose2d(images(), leaf(4, 3, 2, 2), leaf(3)),
    "grouped convolution": lambda: F.conv2d(images(), leaf(4, 2, 3, 3), leaf(4), groups=2),
    "conv tbc": lambda: torch.conv_tbc(leaf(5, 2, 3), leaf(3, 3, 4), leaf(4)),
    "evaluating batch norm": lambda: F.batch_norm(
        images(), torch.rand(4).double(), torch.rand(4).double() + 1, leaf(4), leaf(4)
    ),
    "gru cell": lambda: torch.gru_cell(leaf(2, 3), leaf(2, 4), leaf(12, 3), leaf(12, 4)),
    "bag": lambda: F.embedding_bag(torch.tensor([[0, 1], [1, 2]]), leaf(4, 3)),
    "stack": lambda: torch.stack([leaf(3), leaf(3)]),
    "split": lambda: leaf(6).split(2),
    "unbind": lambda: leaf(3, 2).unbind(),
    "where": lambda: torch.where(torch.rand(4, 3) > 0.5, leaf(4, 3), leaf(3)),
    "masked fill": lambda: leaf(4, 3).masked_fill(torch.rand(4, 3) > 0.5, leaf(1).sum()),
    "clamp": lambda: leaf(9).clamp(0.3, 0.6),
    "maximum": lambda: torch.maximum(leaf(4, 3), leaf(3)),
    "sort": lambda: leaf(4, 3).sort().values,
    "quantile": lambda: leaf(9).quantile(0.3),
    "norm": lambda: leaf(9).norm(),
    "variance": lambda: leaf(9).var(),
    "cumulative sum": lambda: leaf(9).cumsum(0),
    "scatter add": lambda: leaf(5).scatter_add(0, torch.tensor([0, 0, 2]), leaf(3)),
    "index add": lambda: leaf(5).index_add(0, torch.tensor([0, 0, 2]), leaf(3), alpha=2),
    "index put": lambda: leaf(5).index_put((torch.tensor([0, 2]),), leaf(2), accumulate=True),
    "einsum": lambda: torch.einsum("bij,bjk->bik", leaf(2, 3, 4), leaf(2, 4, 5)),
    "bilinear layer": lambda: F.bilinear(leaf(3, 2), leaf(3, 4), leaf(5, 2, 4), leaf(5)),
    "cosine": lambda: F.cosine_similarity(leaf(3, 4), leaf(3, 4)),
    "distances": lambda: torch.cdist(leaf(3, 2), leaf(4, 2)),
    "to half and back": lambda: leaf(9).half().double(),
    "fake quantised": lambda: torch.fake_quantize_per_tensor_affine(
        leaf(9).float(), 0.1, 0, 0, 255
    ),
    "flip and roll": lambda: leaf(9).flip(0).roll(2),
    "complex": lambda: torch.complex(leaf(3), leaf(3)).conj() * 2,
    "real": lambda: torch.view_as_real(torch.complex(leaf(3), leaf(3))),
    "fourier": lambda: torch.fft.rfft(leaf(8)).abs(),
    "list of tensors": lambda: torch._foreach_div([leaf(3), leaf(4)], [leaf(3), leaf(4)]),
    "list maxima": lambda: torch._foreach_maximum([leaf(3), leaf(4)], 0.5),
    "list norms": lambda: torch._foreach_norm([leaf(3), leaf(4)]),
    "cat of one": lambda: torch.cat([leaf(3)]),
    "alias": lambda: torch.ops.aten.alias(leaf(3)) * 1,
    "transformer layer": lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, 0.1).double()(
        leaf(3, 2, 8)
    ),
    "lstm": lambda: torch.nn.LSTM(3, 4, num_layers=2)(leaf(5, 2, 3).float())[0],
    "triplets": lambda: F.triplet_margin_loss(leaf(3, 4), leaf(3, 4), leaf(3, 4)),
    "divergence": lambda: F.kl_div(leaf(3, 4).log(), torch.rand(3, 4), reduction="batchmean"),
    "absolute error": lambda: F.l1_loss(leaf(3, 4), leaf(3, 4)),
    "ctc": lambda: F.ctc_loss(
        leaf(5, 1, 4).log_softmax(-1), torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])
    ),
}


@pytest.mark.parametrize("case", ALSO)
def test_the_laws_hold_and_no_node_lacks_a_rule(case):
    seen = run(ALSO[case]())

    assert [problem for one in seen for problem in broken_laws(one)] == []
    assert [e for one in seen for e in effects_of(one.facts) if e.kind == "opaque"] == []


WRONG = [Averages(over=3), Broadcasts(over=3), Scales(by=Fraction(1, 2)), Normalises()]


@pytest.mark.parametrize("effect", WRONG, ids=lambda effect: effect.kind)
def test_a_wrong_claim_would_be_found(effect, monkeypatch):
    (one,) = (one for one in run(leaf(4).clone()) if one.facts.name == "CloneBackward0")
    monkeypatch.setattr("tests.semantics.observe.effects_of", lambda node: (effect,))

    assert any(problem for _, problem in checks_of(one)) == (effect != Averages(over=3))


def ones(*shape: int) -> Any:
    return torch.ones(*shape, dtype=torch.float64, requires_grad=True)


CONTRACTIONS: dict[str, Callable[[], Any]] = {
    "linear": lambda: F.linear(ones(8, 5), ones(3, 5), ones(3)),
    "product": lambda: ones(8, 5) @ ones(5, 3),
    "batched product": lambda: torch.bmm(ones(2, 8, 5), ones(2, 5, 3)),
    "matrix and vector": lambda: ones(8, 5) @ ones(5),
    "added outer product": lambda: torch.addr(ones(4, 5), ones(4), ones(5)),
    "added batches": lambda: torch.addbmm(ones(4, 6), ones(2, 4, 5), ones(2, 5, 6)),
    "convolution": lambda: F.conv2d(ones(2, 4, 6, 6), ones(3, 4, 3, 3), ones(3)),
    "strided convolution": lambda: F.conv2d(ones(2, 4, 7, 7), ones(3, 4, 3, 3), stride=2),
    "grouped convolution": lambda: F.conv1d(ones(2, 4, 6), ones(4, 2, 3), groups=2),
    "transposed convolution": lambda: F.conv_transpose2d(
        ones(2, 4, 5, 5), ones(4, 3, 3, 3), ones(3), stride=2
    ),
}


@pytest.mark.parametrize("case", CONTRACTIONS)
def test_a_contraction_has_as_many_terms_as_it_says(case):
    """With ones everywhere every term is 1, and the gradient is their number."""
    root = CONTRACTIONS[case]()
    seen = observe([root], [torch.ones_like(root)])
    counted = [
        (effect.summed, sent)
        for one in seen
        for effect, sent in zip(effects_of(one.facts), one.sent, strict=True)
        if isinstance(effect, Contracts | Sums) and effect.summed is not None
    ]

    assert counted
    for terms, sent in counted:
        assert sent.unique().tolist() == [terms]


def classes(*shape: int) -> Any:
    return torch.randint(0, 5, shape)


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5]).double()
TARGETS = torch.tensor([0, 1, 2, 2, 4, -100, 3, -100])
LOSSES: dict[str, tuple[Callable[..., Any], Fraction]] = {
    "mse": (lambda x, **o: F.mse_loss(x, x.detach() * 0.5, **o), Fraction(1, 40)),
    "smooth l1": (lambda x, **o: F.smooth_l1_loss(x, x.detach() * 0.5, **o), Fraction(1, 40)),
    "huber": (lambda x, **o: F.huber_loss(x, x.detach() * 0.5, **o), Fraction(1, 40)),
    "bce": (
        lambda x, **o: F.binary_cross_entropy(x / 2, x.detach() * 0.3, **o),
        Fraction(1, 40),
    ),
    "bce with logits": (
        lambda x, **o: F.binary_cross_entropy_with_logits(x, x.detach() * 0.3, **o),
        Fraction(1, 40),
    ),
    "weighted bce": (
        lambda x, **o: F.binary_cross_entropy_with_logits(
            x, x.detach() * 0.3, weight=WEIGHTS, pos_weight=WEIGHTS, **o
        ),
        Fraction(1, 40),
    ),
    "soft margin": (
        lambda x, **o: F.soft_margin_loss(x, torch.ones(8, 5).double(), **o),
        Fraction(1, 40),
    ),
    "multi margin": (
        lambda x, **o: F.multi_margin_loss(x, TARGETS.clamp(0), **o),
        Fraction(1, 8),
    ),
    "multilabel margin": (
        lambda x, **o: F.multilabel_margin_loss(x, torch.zeros(8, 5).long(), **o),
        Fraction(1, 8),
    ),
    "cross entropy": (lambda x, **o: F.cross_entropy(x, TARGETS.clamp(0), **o), Fraction(1, 8)),
    "cross entropy that ignores": (
        lambda x, **o: F.cross_entropy(x, TARGETS, **o),
        Fraction(1, 6),
    ),
    "weighted cross entropy": (
        lambda x, **o: F.cross_entropy(x, TARGETS, weight=WEIGHTS, **o),
        Fraction(4, 29),
    ),
    "dense cross entropy": (
        lambda x, **o: F.cross_entropy(x.T.reshape(1, 5, 2, 4), TARGETS.reshape(1, 2, 4), **o),
        Fraction(1, 6),
    ),
    "cross entropy of one item": (
        lambda x, **o: F.cross_entropy(x[0], TARGETS[1], **o),
        Fraction(1),
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_mean_loss_is_the_summed_one_over_its_denominator(case):
    loss, factor = LOSSES[case]
    values = torch.rand(8, 5, dtype=torch.float64) + 0.1
    sent, effects = {}, {}
    for reduction in ("sum", "mean"):
        seen = observe([loss(values.clone().requires_grad_(), reduction=reduction)])
        effects[reduction] = effects_of(seen[0].facts)[0]
        sent[reduction] = seen[0].sent[0]

    assert isinstance(effects["mean"], LossReduction)
    assert effects["mean"].reduction in ("mean", "weighted-mean")
    assert (effects["mean"].reduction == "mean") != (case == "weighted cross entropy")
    assert effects["sum"].reduction == "sum"
    assert effects["mean"].factor == factor
    torch.testing.assert_close(sent["mean"], sent["sum"] * float(factor))


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_without_reduction_says_so(case):
    loss, _ = LOSSES[case]
    root = loss(leaf(8, 5), reduction="none")
    effect = effects_of(observe([root], [torch.ones_like(root)])[0].facts)[0]

    assert (effect.kind, effect.reduction, effect.factor) == ("loss-reduction", "none", 1)
    assert effect.items == root.numel()


class Doubled(torch.autograd.Function):
    """A function of the user's."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def test_a_function_of_the_users_is_opaque_by_its_qualified_name():
    effect = effects_of(run(Doubled.apply(leaf(3)))[0].facts)[0]

    assert effect.reason.endswith("test_laws.Doubled")


def test_a_write_into_a_view_is_opaque():
    target = leaf(4).clone()
    target[0] = leaf(1).sum()

    assert effects_at(run(target), "torch::autograd::CopySlices")[0].kind == "opaque"
