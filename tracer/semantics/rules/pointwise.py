"""Functions of one element at a time, whose derivative differs from element to element."""

from __future__ import annotations

from tracer.semantics.effects import Distributes, Effect, Elementwise
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import rule
from tracer.semantics.sizes import per_output

ELEMENTARY = """
    AbsBackward0 AcosBackward0 AcoshBackward0 AngleBackward0 AsinBackward0 AsinhBackward0
    Atan2Backward0 AtanBackward0 AtanhBackward0 CopysignBackward1 CosBackward0 CoshBackward0
    DigammaBackward0 ErfBackward0 ErfcBackward0 ErfinvBackward0 Exp2Backward0 ExpBackward0
    Expm1Backward0 FrexpBackward0 HypotBackward0 I0Backward0 IgammaBackward0 IgammacBackward0
    LdexpBackward0 LerpBackward1 LgammaBackward0 LinalgCrossBackward0 Log10Backward0
    Log1PBackward0 Log2Backward0 LogBackward0 LogitBackward0 MvlgammaBackward0
    NanToNumBackward0 PolarBackward0 PolygammaBackward0 PolygammaBackward1 PowBackward0
    PowBackward1 PowBackward2 ReciprocalBackward0 RsqrtBackward0 SgnBackward0 SinBackward0
    SincBackward0 SinhBackward0 SpecialEntrBackward0 SpecialErfcxBackward0
    SpecialI0EBackward0 SpecialI1Backward0 SpecialI1EBackward0 SpecialLogNdtrBackward0
    SpecialNdtriBackward0 SpecialXlog1PyBackward0 SpecialXlog1PyBackward1
    SpecialXlog1PyBackward2 SpecialZetaBackward0 SpecialZetaBackward1 SpecialZetaBackward2
    SqrtBackward0 StandardGammaBackward0 TanBackward0 TanhBackward0 XlogyBackward0
    XlogyBackward1 XlogyBackward2
"""

ACTIVATIONS = """
    CeluBackward0 CeluBackward1 EluBackward0 EluBackward1 GeluBackward0 HardshrinkBackward0
    HardsigmoidBackward0 HardswishBackward0 HardtanhBackward0 LeakyReluBackward0
    LeakyReluBackward1 LogSigmoidBackward0 MishBackward0 PreluKernelBackward0 ReluBackward0
    RreluWithNoiseBackward0 RreluWithNoiseBackward1 RreluWithNoiseFunctionalBackward0
    SigmoidBackward0 SiluBackward0 SoftplusBackward0 SoftshrinkBackward0 ThresholdBackward0
    ThresholdBackward1
"""

LIMITS_AND_MASKS = """
    ClampBackward0 ClampBackward1 ClampMaxBackward0 ClampMaxBackward1 ClampMinBackward0
    ClampMinBackward1 FusedDropoutBackward0 NativeDropoutBackward0 TrilBackward0 TriuBackward0
    FakeQuantizeLearnablePerChannelAffineBackward0 FakeQuantizeLearnablePerTensorAffineBackward0
    FakeQuantizePerChannelAffineCachemaskBackward0 FakeQuantizePerTensorAffineCachemaskBackward0
    FakeQuantizePerTensorAffineCachemaskTensorQparamsBackward0 FusedMovingAvgObsFqHelperBackward0
"""

SECOND_DERIVATIVES = """
    BinaryCrossEntropyBackwardBackward0 EluBackwardBackward0 GeluBackwardBackward0
    HardshrinkBackwardBackward0 HardswishBackwardBackward0 HardtanhBackwardBackward0
    LeakyReluBackwardBackward0 LogSigmoidBackwardBackward0 NativeDropoutBackwardBackward0
    PreluKernelBackwardBackward0 RreluWithNoiseBackwardBackward0 SigmoidBackwardBackward0
    SoftplusBackwardBackward0 SoftshrinkBackwardBackward0 TanhBackwardBackward0
    ThresholdBackwardBackward0
"""

LISTS = """
    ForeachDivBackward0 ForeachMaximumBackward0 ForeachMaximumBackward1 ForeachMinimumBackward0
    ForeachMinimumBackward1 ForeachPowBackward0 ForeachPowBackward1 ForeachPowBackward2
"""


@rule(ELEMENTARY, ACTIVATIONS, LIMITS_AND_MASKS, SECOND_DERIVATIVES)
def pointwise(node: NodeFacts) -> tuple[Effect, ...]:
    """d f(x_i) is f'(x_i) dx_i; an operand that was broadcast sums over its copies."""
    return per_output(node, *(Elementwise() for _ in node.sent))


@rule(LISTS)
def listwise(node: NodeFacts) -> Effect:
    """The same, tensor by tensor, for a list of them."""
    return Elementwise()


@rule("GluBackward0", "GluBackwardBackward0")
def glu(node: NodeFacts) -> Effect:
    """d (a sigmoid(b)) is sigmoid(b) da + a sigmoid'(b) db, of the two halves of one tensor."""
    return Elementwise()


@rule(
    "FmaxBackward0",
    "FminBackward0",
    "Logaddexp2Backward0",
    "LogaddexpBackward0",
    "MaximumBackward0",
    "MinimumBackward0",
)
def extreme(node: NodeFacts) -> tuple[Effect, ...]:
    """The gradient goes to the larger (smaller) operand, or to both with weights that add to 1."""
    return per_output(node, *(Distributes(claims="together") for _ in node.sent))
