"""The operators: one file each, with attributes, shape rule, float meaning and integer meaning."""

from picoformer.ir.operator import Operator
from picoformer.ops.activation import Activation, LoweredInterpolatedTable, LoweredTable
from picoformer.ops.attention import Attention, LoweredAttention
from picoformer.ops.elementwise import Add, LoweredAdd, LoweredMul, Mul
from picoformer.ops.embedding import Embedding, LoweredEmbedding
from picoformer.ops.layout import Concat, LoweredMove, Reshape, Slice, Transpose
from picoformer.ops.linear import Linear, LoweredLinear
from picoformer.ops.normalization import LayerNorm, LoweredLayerNorm
from picoformer.ops.reduce import LoweredReduceMean, ReduceMean
from picoformer.ops.requantize import LoweredRequantize, Requantize
from picoformer.ops.softmax import LoweredSoftmax, Softmax
from picoformer.ops.spelled import Binary, Conv, MatMul, Unary, Where

OPERATORS: dict[str, type[Operator]] = {
    operator.kind: operator
    for operator in (
        Activation, Add, Attention, Binary, Concat, Conv, Embedding, LayerNorm, Linear, MatMul, Mul, ReduceMean,
        Requantize, Reshape, Slice, Softmax, Transpose, Unary, Where,
    )
}  # fmt: skip
"""Every operator by its stable name."""

__all__ = [
    "OPERATORS", "Activation", "Add", "Attention", "Binary", "Concat", "Conv", "Embedding", "LayerNorm", "Linear",
    "LoweredAdd", "LoweredAttention", "LoweredEmbedding", "LoweredInterpolatedTable", "LoweredLayerNorm",
    "LoweredLinear", "LoweredMove", "LoweredMul", "LoweredReduceMean", "LoweredRequantize", "LoweredSoftmax",
    "LoweredTable", "MatMul", "Mul", "ReduceMean", "Requantize", "Reshape", "Slice", "Softmax", "Transpose", "Unary",
    "Where",
]  # fmt: skip
