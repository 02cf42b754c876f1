"""The operators: one file each, with attributes, shape rule, float meaning and integer meaning."""

from picoformer.ir.operator import Operator
from picoformer.ops.activation import Activation, LoweredInterpolatedTable, LoweredTable
from picoformer.ops.attention import Attention, LoweredAttention
from picoformer.ops.block import LoweredPositionIds, LoweredTakeRow, PositionIds, TakeRow
from picoformer.ops.cached_attention import CachedAttention, LoweredCachedAttention
from picoformer.ops.depthwise import DepthwiseConv, LoweredDepthwiseConv
from picoformer.ops.elementwise import Add, LoweredAdd, LoweredMul, Mul
from picoformer.ops.embedding import Embedding, LoweredEmbedding
from picoformer.ops.experts import (
    ExpertLinear,
    ExpertWeights,
    LoweredExpertLinear,
    LoweredExpertWeights,
    LoweredScaleRows,
    LoweredTopExperts,
    ScaleRows,
    TopExperts,
)
from picoformer.ops.kv_cache import KvAppend, LoweredKvAppend
from picoformer.ops.layout import Concat, LoweredMove, Reshape, Slice, Transpose
from picoformer.ops.linear import Linear, LoweredLinear
from picoformer.ops.normalization import LayerNorm, LoweredLayerNorm
from picoformer.ops.pooling import AveragePool, LoweredAveragePool, LoweredMaxPool, MaxPool
from picoformer.ops.reduce import LoweredReduceMean, ReduceMean
from picoformer.ops.relative_attention import LoweredRelativeAttention, RelativeAttention
from picoformer.ops.requantize import LoweredRequantize, Requantize
from picoformer.ops.rms_norm import LoweredRmsNorm, RmsNorm
from picoformer.ops.rope import LoweredRope, Rope
from picoformer.ops.softmax import LoweredSoftmax, Softmax
from picoformer.ops.spelled import Binary, Conv, MatMul, Unary, Where
from picoformer.ops.window import LoweredPatches, Patches, Window

OPERATORS: dict[str, type[Operator]] = {
    operator.kind: operator
    for operator in (
        Activation, Add, Attention, AveragePool, Binary, CachedAttention, Concat, Conv, DepthwiseConv, Embedding,
        ExpertLinear, ExpertWeights, KvAppend, LayerNorm, Linear, MatMul, MaxPool, Mul, Patches, PositionIds,
        ReduceMean, RelativeAttention, Requantize, Reshape, RmsNorm, Rope, ScaleRows, Slice, Softmax, TakeRow,
        TopExperts, Transpose, Unary, Where,
    )
}  # fmt: skip
"""Every operator by its stable name."""

__all__ = [
    "OPERATORS", "Activation", "Add", "Attention", "AveragePool", "Binary", "CachedAttention", "Concat", "Conv",
    "DepthwiseConv", "Embedding", "ExpertLinear", "ExpertWeights", "KvAppend", "LayerNorm", "Linear", "LoweredAdd",
    "LoweredAttention", "LoweredAveragePool", "LoweredCachedAttention", "LoweredDepthwiseConv", "LoweredEmbedding",
    "LoweredExpertLinear", "LoweredExpertWeights", "LoweredInterpolatedTable", "LoweredKvAppend", "LoweredLayerNorm",
    "LoweredLinear", "LoweredMaxPool", "LoweredMove", "LoweredMul", "LoweredPatches", "LoweredPositionIds",
    "LoweredReduceMean", "LoweredRelativeAttention", "LoweredRequantize", "LoweredRmsNorm", "LoweredRope",
    "LoweredScaleRows", "LoweredSoftmax", "LoweredTable", "LoweredTakeRow", "LoweredTopExperts", "MatMul", "MaxPool",
    "Mul", "Patches", "PositionIds", "ReduceMean", "RelativeAttention", "Requantize", "Reshape", "RmsNorm", "Rope",
    "ScaleRows", "Slice", "Softmax", "TakeRow", "TopExperts", "Transpose", "Unary", "Where", "Window",
]  # fmt: skip
