"""Scaled dot product attention in one operator: softmax(q k^T / sqrt d) v."""

from __future__ import annotations

from tracer.semantics.effects import Contracts, Distributes, Effect, Normalises
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import whole_if


@rule(
    "CudnnAttentionBackward0",
    "EfficientAttentionBackward0",
    "FlashAttentionBackward0",
    "ScaledDotProductCudnnAttentionBackward0",
    "ScaledDotProductEfficientAttentionBackward0",
    "ScaledDotProductFlashAttentionBackward0",
    "ScaledDotProductFlashAttentionForCpuBackward0",
    "ScaledDotProductFusedAttentionOverrideableBackward0",
)
def attention(node: NodeFacts) -> tuple[Effect, ...]:
    """q contracts over the keys; k is under a softmax; v is averaged by weights that add to 1."""
    value = Distributes(claims=whole_if(is_plain(node)))
    return (Contracts(over=keys(node)), Normalises(), value, Contracts())


def keys(node: NodeFacts) -> int | None:
    """How many keys each query saw, None if neither keys nor values had a gradient."""
    known = (shape for shape in node.sent[1:3] if shape is not None and len(shape) == 4)
    return next((shape[-2] for shape in known if "ScaledDotProduct" in node.name), None)


def is_plain(node: NodeFacts) -> bool:
    """Whether the weights of each query add up to 1: no dropout, no query without any key."""
    masked = any(node.saved.get(name, "unknown") is not None for name in mask_names(node))
    return node.saved.get("dropout_p") == 0 and not masked


def mask_names(node: NodeFacts) -> tuple[str, ...]:
    """What the mask of this operator is called."""
    if "Flash" in node.name:
        return ("attn_mask",) if "ForCpu" in node.name else ()
    return ("bias",) if node.name.startswith("Efficient") else ("attn_bias",)
