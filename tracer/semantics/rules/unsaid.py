"""Nodes of which nothing is said, and why."""

from __future__ import annotations

from tracer.semantics.registry import opaque

opaque(
    "a matrix decomposition or solution: every element depends on the whole matrix",
    """
    CholeskyBackward0 CholeskyInverseBackward0 CholeskySolveBackward0 GeqrfBackward0
    LinalgCholeskyExBackward0 LinalgDetBackward0 LinalgEigBackward0 LinalgEighBackward0
    LinalgHouseholderProductBackward0 LinalgInvExBackward0 LinalgLstsqBackward0 LinalgLuBackward0
    LinalgLuFactorExBackward0 LinalgLuSolveBackward0 LinalgMatrixExpBackward0 LinalgPinvBackward0
    LinalgQrBackward0 LinalgSlogdetBackward0 LinalgSolveExBackward0
    LinalgSolveTriangularBackward0 LinalgSvdBackward0 LuUnpackBackward0 OrmqrBackward0
    TriangularSolveBackward0
    """,
)

opaque(
    "a sparse tensor: the shape does not tell which elements there are",
    """
    SparseAddmmBackward0 SparseCompressedTensorBackward0 SparseCooTensorWithDimsAndTensorsBackward0
    SparseLogSoftmaxBackward0 SparseMaskBackward0 SparseMmReduceImplBackward0
    SparseSampledAddmmBackward0 SparseSoftmaxBackward0 SparseSparseMatmulBackward0
    SparseSumBackward0 ToDenseBackward0 ToSparseBackward0 ToSparseBackward1 ToSparseBscBackward0
    ToSparseBsrBackward0 ToSparseCscBackward0 ToSparseCsrBackward0
    """,
)

opaque(
    "a nested tensor: its ragged shape does not tell the count",
    "MeanBackwardAutogradNestedTensor0",
    "SumBackwardAutogradNestedTensor0",
    "SumBackwardAutogradNestedTensor1",
)

opaque(
    "torch has no derivative here: the node raises when it runs",
    """
    AcoshBackward1 AsinhBackward1 AtanhBackward1 CdistBackwardBackward0 CudnnRnnBackwardBackward0
    EmbeddingBagBackwardBackward0 EmbeddingBagDenseBackwardBackward0 EmbeddingRenormBackward0
    MaxPool2DBackwardBackward0 PdistBackwardBackward0 StandardGammaGradBackward0
    Unique2Backward0 UniqueBackward0 UniqueConsecutiveBackward0 UniqueDimBackward0
    UniqueDimConsecutiveBackward0
    """,
)

opaque(
    "a node of PyTorch's own tests",
    """
    TestAutogradMultipleDispatchBackward0 TestAutogradMultipleDispatchBackwardAutogradCUDA0
    TestAutogradMultipleDispatchBackwardAutogradNestedTensor0
    TestAutogradMultipleDispatchBackwardAutogradNestedTensor1
    TestAutogradMultipleDispatchViewBackward0
    TestAutogradMultipleDispatchViewBackwardAutogradCUDA0 TestWarnInAutogradBackward0
    """,
)
