"""Reading and writing at indices or under a mask."""

from __future__ import annotations

from tracer.semantics.effects import (
    Distributes,
    Effect,
    Elementwise,
    Moves,
    Opaque,
    Scales,
    ScatterAdds,
    Selects,
    exact,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import index_of, number, per_output, whole_if

PART = Moves(claims="nothing")


@rule(
    "GatherBackward0",
    "IndexBackward0",
    "IndexSelectBackward0",
    "TakeBackward0",
    "UnsafeIndexBackward0",
)
def read_at(node: NodeFacts) -> Effect:
    """d x[i] goes to place i; a place that was read twice adds both."""
    return ScatterAdds()


@rule("UnsafeMaskedIndexBackward0")
def read_at_masked(node: NodeFacts) -> Effect:
    """The same; what was masked out is lost."""
    return ScatterAdds(claims="nothing")


@rule("EmbeddingBackward0")
def embedding(node: NodeFacts) -> Effect:
    """A row adds up the gradients of the places that read it; that of the padding is lost."""
    padding = number(node, "padding_idx")
    if node.saved.get("scale_grad_by_freq", True):
        return Distributes(claims="nothing")
    return ScatterAdds(claims=whole_if(padding is not None and index_of(int(padding)) < 0))


@rule("EmbeddingBagBackward0")
def embedding_bag(node: NodeFacts) -> tuple[Effect, ...]:
    """A row adds up the gradients of its bags: whole, over their sizes, or where it was largest."""
    modes: dict[object, Effect] = {
        0: ScatterAdds(claims="nothing"),
        1: Distributes(claims="nothing"),
        2: Selects(claims="nothing"),
    }
    unknown = Opaque("the mode of this embedding bag was not recorded")
    table = modes.get(node.saved.get("mode"), unknown)
    return tuple(table if output == 0 else Elementwise() for output in range(len(node.sent)))


@rule("EmbeddingDenseBackwardBackward0")
def embedding_again(node: NodeFacts) -> Effect:
    """The adjoint of adding rows at indices is reading them."""
    return PART


@rule("MaskedSelectBackward0")
def masked_select(node: NodeFacts) -> tuple[Effect, ...]:
    """d x[mask] goes back under the mask; a broadcast operand adds up."""
    return tuple(ScatterAdds() for _ in node.sent)


@rule("MaskedFillBackward0", "MaskedFillBackward1")
def masked_fill(node: NodeFacts) -> tuple[Effect, ...]:
    """What was not masked passes; the value gets the sum under the mask."""
    single = len(node.sent) < 2
    kept = Selects(claims="nothing" if single else "together")
    return per_output(node, kept, Selects(claims="together"))


@rule("WhereBackward0")
def where(node: NodeFacts) -> tuple[Effect, ...]:
    """Each element passes to the operand it was taken from."""
    return per_output(node, *(Selects(claims="together") for _ in node.sent))


@rule("MaskedScatterBackward0")
def masked_scatter(node: NodeFacts) -> tuple[Effect, ...]:
    """What was not masked passes; the source gets the rest, in order."""
    return (Selects(claims="together"), Selects(claims="together"))


@rule("MaskedScatterBackwardBackward0")
def masked_scatter_again(node: NodeFacts) -> Effect:
    """The adjoint of taking what lies under the mask is putting it there."""
    return PART


@rule("IndexFillBackward0", "IndexFillBackward1")
def index_fill(node: NodeFacts) -> tuple[Effect, ...]:
    """What was not filled passes; the value gets the sum of the filled places."""
    return (Selects(claims="nothing"), Selects(claims="nothing"))


@rule("IndexAddBackward0")
def index_add(node: NodeFacts) -> tuple[Effect, ...]:
    """d (x[i] += alpha s): x passes, s reads alpha times the gradient at its indices."""
    alpha = number(node, "alpha")
    source: Effect = Opaque("alpha was not recorded")
    if alpha is not None:
        source = PART if alpha == 1 else Scales(by=exact(alpha), claims="nothing")
    return (Moves(), source)


@rule("ScatterAddBackward0")
def scatter_add(node: NodeFacts) -> tuple[Effect, ...]:
    """d (x[i] += s): x passes, s reads the gradient at its indices."""
    return (Moves(), PART)


@rule("IndexCopyBackward0", "ScatterBackward0", "ScatterBackward1")
def written_at(node: NodeFacts) -> tuple[Effect, ...]:
    """d (x[i] = s): x passes where it was kept, s reads the gradient at its indices."""
    return (Selects(claims="nothing"), PART)


@rule("IndexPutBackward0", "IndexPutImplBackward0", "PutBackward0", "UnsafeIndexPutBackward0")
def put(node: NodeFacts) -> tuple[Effect, ...]:
    """The same, or x passes whole where the values were added."""
    accumulates = node.saved.get("accumulate") is True
    kept: Effect = Moves() if accumulates else Selects(claims="nothing")
    return (kept, PART)


@rule("UnsafeMaskedIndexPutAccumulateBackward0")
def put_masked(node: NodeFacts) -> tuple[Effect, ...]:
    """x passes, the values read the gradient at their indices under the mask."""
    return (Moves(), PART)


@rule("IndexReduceBackward0", "ScatterReduceBackward0", "SegmentReduceBackward0")
def reduced_at(node: NodeFacts) -> Effect:
    """What was reduced together gets the gradient of it: whole, shared, or by a derivative."""
    how: dict[object, Effect] = {"sum": PART, "mean": Distributes(claims="nothing")}
    return how.get(node.saved.get("reduce"), Elementwise())
