"""The graph: what a model is between the front door and the backends."""

from picoformer.ir.graph import Graph, Node, fresh_name
from picoformer.ir.operator import Lowered, Operand, Operator
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ir.verify import verify

__all__ = [
    "DType",
    "Graph",
    "Lowered",
    "Node",
    "Operand",
    "Operator",
    "QuantParams",
    "TensorType",
    "fresh_name",
    "verify",
]
