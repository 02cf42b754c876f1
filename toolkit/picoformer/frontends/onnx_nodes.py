"""What each ONNX operator becomes: a flat table {op_type: converter}. Larger ones have files of their own."""

from __future__ import annotations

import math

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends import onnx_attention, onnx_contrib, onnx_einsum, onnx_moves, onnx_norms, onnx_rotary
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.frontends.onnx_convolutions import (
    average_pool,
    batch_normalization,
    conv,
    global_pool,
    max_pool,
    reduce_largest,
)
from picoformer.frontends.onnx_functions import FUNCTIONS
from picoformer.frontends.onnx_images import depth_to_space, pad, resize, space_to_depth
from picoformer.frontends.onnx_products import gemm, matmul
from picoformer.ir import DType, Operator
from picoformer.ops import (
    Activation,
    Add,
    Binary,
    Concat,
    Mul,
    ReduceMean,
    Reshape,
    Slice,
    Softmax,
    Transpose,
    Unary,
    Where,
)


def elementwise(op: Operator) -> Converter:
    """An operator of one or two operands that means the same here."""

    def convert(node: NodeReader) -> None:
        node.finish(op, node.aligned(node.inputs))

    return convert


def division(node: NodeReader) -> None:
    """Div; between integers ONNX truncates, which no covered model needs on activations."""
    constant = all(node.builder.is_constant(name) for name in node.inputs)
    if not constant and node.type(0).dtype is DType.INT32:
        raise node.unsupported("divides integers", "cast them to float first")
    node.finish(Binary("div"), node.aligned(node.inputs))


def comparison(swap: bool, negate: bool) -> Converter:
    """Less and its family by way of a < b: swapped operands, negated result."""

    def convert(node: NodeReader) -> None:
        a, b = node.aligned(node.inputs)
        operands = [b, a] if swap else [a, b]
        if negate:
            node.finish(Unary("not"), [node.step(Binary("less"), operands, "less")])
        else:
            node.finish(Binary("less"), operands)

    return convert


def sum_of_squares(node: NodeReader) -> None:
    """ReduceSumSquare: the sum of a value's product with itself."""
    square = node.step(Mul(), [node.inputs[0], node.inputs[0]], "square")
    reduce(node, square, is_sum=True)


def identity(node: NodeReader) -> None:
    """The output is the first input."""
    node.builder.alias(node.output, node.inputs[0])


def dropout(node: NodeReader) -> None:
    """Nothing at inference."""
    if node.has_input(2) and bool(node.array(2).reshape(-1)[0]):
        raise node.unsupported("drops values, it is in training mode", "call model.eval() before the export")
    identity(node)


def cast(node: NodeReader) -> None:
    """Between kinds of float or of integers nothing; booleans and lengths become 0, 1, 2, …"""
    _cast(node, int(node.attribute("to", 1)))


def _cast(node: NodeReader, target: int) -> None:
    floats, integers, boolean = (1, 10, 11, 16), (2, 3, 4, 5, 6, 7, 12, 13), 9
    source = node.type().dtype
    if node.builder.is_constant(node.inputs[0]):
        kind = np.float32 if target in floats else np.int64 if target in integers else np.bool_
        node.builder.known[node.output] = node.array(0).astype(kind)
    elif target in {DType.FLOAT32: floats, DType.INT32: integers}.get(source, (boolean,)):
        identity(node)
    elif source is DType.BOOL and target in floats + integers:
        number = np.float32 if target in floats else np.int64
        choices = [node.constant(np.array(value, number), role) for value, role in ((1, "one"), (0, "zero"))]
        node.finish(Where(), [node.inputs[0], *choices])
    elif source is DType.INT32 and target in floats:
        node.finish(Unary("float"), [node.inputs[0]])
    else:
        raise node.unsupported(f"casts {source.value} to ONNX type {target}", "give the model that type to begin with")


def cast_like(node: NodeReader) -> None:
    """Cast to the kind of number that the second input is."""
    kinds = {DType.FLOAT32: 1, DType.INT32: 7, DType.BOOL: 9}
    _cast(node, kinds[node.type(1).dtype])


def never(node: NodeReader) -> None:
    """IsNaN, IsInf: a model here has neither, a row that sees nothing is zero."""
    node.builder.known[node.output] = np.zeros(node.type().shape, np.bool_)


def where(node: NodeReader) -> None:
    """Where; a choice that is always the same is no choice."""
    if node.builder.is_constant(node.inputs[0]) and node.array(0).size:
        condition = node.array(0)
        if condition.all() or not condition.any():
            shape = np.broadcast_shapes(*(node.type(index).shape for index in range(3)))
            chosen = node.inputs[1 if condition.all() else 2]
            type_ = node.builder.type_of(chosen)
            _spread(node, node.reshaped(chosen, (1,) * (len(shape) - type_.rank) + type_.shape, "aligned"), shape)
            return
    node.finish(Where(), node.aligned(node.inputs))


def gelu(node: NodeReader) -> None:
    """Gelu, exact or by tanh."""
    tanh = node.attribute("approximate", "none") == "tanh"
    node.finish(Activation("gelu_tanh" if tanh else "gelu"), node.inputs)


def softmax(node: NodeReader) -> None:
    """Softmax; another axis than the last by way of two transposes. Before opset 13 the axes from `axis` on are one."""
    rank = node.type().rank
    old = node.opset < 13
    axis = node.axis(node.attribute("axis", 1 if old else -1), rank)
    if axis == -1:
        node.finish(Softmax(), node.inputs)
        return
    if old:
        raise node.unsupported(f"flattens the axes from {axis} on", "export with opset 13 or newer")
    order = list(range(-rank, 0))
    order[axis], order[-1] = -1, axis
    moved = node.step(Transpose(tuple(order)), node.inputs, "moved")
    node.finish(Transpose(tuple(order)), [node.step(Softmax(), [moved], "softmax")])


def reduce_mean(is_sum: bool) -> Converter:
    """ReduceMean over one axis after the other; a ReduceSum is the mean times the count."""

    def convert(node: NodeReader) -> None:
        reduce(node, node.inputs[0], is_sum)

    return convert


def reduce(node: NodeReader, value: str, is_sum: bool) -> None:
    """The node's output: the mean or sum of `value` over the axes that the node names."""
    shape = node.type().shape
    given = node.axes(1)
    if not given and node.attribute("noop_with_empty_axes", 0):
        node.give(value)
        return
    axes = sorted({node.axis(a, len(shape)) for a in given or range(len(shape))})
    keep = bool(node.attribute("keepdims", 1))
    count = math.prod(shape[a] for a in axes)
    for position, axis in enumerate(axes):  # from the front: the axes behind keep their place from the end
        if position == len(axes) - 1 and not is_sum:
            node.finish(ReduceMean(axis, keep), [value])
        else:
            value = node.step(ReduceMean(axis, keep), [value], "mean")
    if is_sum:
        node.finish(Mul(), [value, node.constant(np.array(count, np.float32), "count")])


def reshape(node: NodeReader) -> None:
    """Reshape with 0 (copy the axis, unless allowzero) and −1 (what is left)."""
    source = node.type().shape
    shape = node.integers(1)
    if not node.attribute("allowzero", 0):
        shape = [source[i] if size == 0 and i < len(source) else size for i, size in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = math.prod(size for size in shape if size != -1)
        if rest > 0 and math.prod(source) % rest == 0:
            shape[shape.index(-1)] = math.prod(source) // rest
    if any(size < 1 for size in shape):
        raise ModelError(f"{node.builder.path}: node '{node.label}' reshapes {list(source)} to {shape}; export again")
    node.finish(Reshape(tuple(shape)), node.inputs[:1])


def flatten(node: NodeReader) -> None:
    """Flatten to a matrix at `axis`."""
    shape = node.type().shape
    axis = node.attribute("axis", 1)
    node.finish(Reshape((math.prod(shape[:axis]), math.prod(shape[axis:]))), node.inputs)


def squeeze(node: NodeReader) -> None:
    """Drop axes of length 1."""
    shape = node.type().shape
    given = node.axes(1)
    axes = {node.axis(a, len(shape)) for a in given} if given is not None else None
    kept = [
        size
        for position, size in enumerate(shape)
        if not (size == 1 if axes is None else position - len(shape) in axes)
    ]
    node.finish(Reshape(tuple(kept)), node.inputs[:1])


def unsqueeze(node: NodeReader) -> None:
    """Insert axes of length 1."""
    shape = list(node.type().shape)
    rank = len(shape) + len(node.axes(1) or [])
    for axis in sorted(a % rank for a in node.axes(1) or []):
        shape.insert(axis, 1)
    node.finish(Reshape(tuple(shape)), node.inputs[:1])


def expand(node: NodeReader) -> None:
    """Repeat axes of length 1."""
    source = node.type()
    target = np.broadcast_shapes(source.shape, tuple(node.integers(1)))
    _spread(node, node.reshaped(node.inputs[0], (1,) * (len(target) - source.rank) + source.shape, "aligned"), target)


def tile(node: NodeReader) -> None:
    """Repeat any axes."""
    value, repeats, rank = node.inputs[0], node.integers(1), node.type().rank
    for axis, times in enumerate(repeats):
        if times > 1 and node.type().shape[axis] > 1:
            value = node.step(Concat(axis - rank), [value] * times, "copies")
    _spread(node, value, tuple(size * times for size, times in zip(node.type().shape, repeats, strict=True)))


def _spread(node: NodeReader, value: str, target: tuple[int, ...]) -> None:
    """`value` with axes of length 1 repeated: a product with ones, or for booleans and integers copies side by side."""
    if node.builder.type_of(value).shape == target:
        node.builder.alias(node.output, value)
    elif node.builder.type_of(value).dtype is DType.FLOAT32:
        node.finish(Mul(), [value, node.constant(np.ones(target, np.float32), "ones")])
    else:
        for axis in range(-len(target), 0):
            if node.builder.type_of(value).shape[axis] != target[axis]:
                value = node.step(Concat(axis), [value] * target[axis], "copies")
        node.builder.alias(node.output, value)


def transpose(node: NodeReader) -> None:
    """Transpose, by default all axes reversed."""
    rank = node.type().rank
    order = node.attribute("perm", list(range(rank))[::-1])
    node.finish(Transpose(tuple(node.axis(a, rank) for a in order)), node.inputs)


def slices(node: NodeReader) -> None:
    """Slice, one axis after the other."""
    starts, stops = node.integers(1), node.integers(2)
    axes = node.integers(3) if node.has_input(3) else list(range(len(starts)))
    steps = node.integers(4) if node.has_input(4) else [1] * len(starts)
    value = node.inputs[0]
    for start, stop, given, step in zip(starts, stops, axes, steps, strict=True):
        shape = node.builder.type_of(value).shape
        axis = node.axis(given, len(shape))
        if step < 1:
            raise node.unsupported(f"walks axis {given} backwards", "slice with a positive step")
        first, last, _ = slice(start, stop, step).indices(shape[axis])
        if first >= last:
            raise ModelError(f"{node.builder.path}: node '{node.label}' takes no entry of axis {given}; export again")
        if (first, last, step) != (0, shape[axis], 1):
            value = node.step(Slice(axis, first, last, step), [value], "slice")
    node.give(value)


def split(node: NodeReader) -> None:
    """Split: one Slice per output."""
    shape = node.type().shape
    axis = node.axis(node.attribute("axis", 0), len(shape))
    outputs = list(node.node.output)
    given = node.attribute("split", None)
    if node.has_input(1):
        given = node.integers(1)
    if given is None:
        each = -(-shape[axis] // len(outputs))
        given = [each] * (len(outputs) - 1)
        given.append(shape[axis] - sum(given))
    if len(given) != len(outputs) or sum(given) != shape[axis] or any(size < 0 for size in given):
        raise ModelError(f"{node.builder.path}: node '{node.label}' splits {shape[axis]} entries into {list(given)}")
    start = 0
    for size, output in zip(given, outputs, strict=True):
        if output and size == 0:  # a piece of nothing, which only a Concat may read
            node.builder.known[output] = np.zeros((*shape[:axis], 0, *shape[len(shape) + axis + 1 :]), np.float32)
        elif output:
            node.finish(Slice(axis, start, start + size), node.inputs[:1], output)
        start += size


def concat(node: NodeReader) -> None:
    """Concat along one axis, pieces of nothing left out."""
    names = [name for name in node.inputs if node.builder.type_of(name).elements]
    axis = node.axis(node.attribute("axis", 0), node.type().rank)
    if len(names) == 1:
        node.give(names[0])
    else:
        node.finish(Concat(axis), names or node.inputs)


def constant(node: NodeReader) -> None:
    """A Constant that folding left in place."""
    import onnx.numpy_helper

    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = node.attribute(name, None)
        if value is not None:
            is_float = name.startswith("value_float")
            array = onnx.numpy_helper.to_array(value) if name == "value" else np.array(value)
            node.builder.known[node.output] = array.astype(np.float32) if is_float else array
            return
    raise node.unsupported("is a string or sparse constant", "export plain numbers")


CONVERTERS: dict[str, Converter] = {
    **onnx_attention.CONVERTERS,
    **onnx_contrib.CONVERTERS,
    **onnx_einsum.CONVERTERS,
    **onnx_moves.CONVERTERS,
    **onnx_norms.CONVERTERS,
    **onnx_rotary.CONVERTERS,
    **FUNCTIONS,
    "Add": elementwise(Add()),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "CastLike": cast_like,
    "Concat": concat,
    "Constant": constant,
    "Conv": conv,
    "DepthToSpace": depth_to_space,
    "Div": division,
    "Dropout": dropout,
    "Erf": elementwise(Unary("erf")),
    "Exp": elementwise(Unary("exp")),
    "Expand": expand,
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(is_largest=False),
    "GlobalMaxPool": global_pool(is_largest=True),
    "Greater": comparison(swap=True, negate=False),
    "GreaterOrEqual": comparison(swap=False, negate=True),
    "Identity": identity,
    "Less": comparison(swap=False, negate=False),
    "IsInf": never,
    "IsNaN": never,
    "LessOrEqual": comparison(swap=True, negate=True),
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mul": elementwise(Mul()),
    "Neg": elementwise(Unary("neg")),
    "Not": elementwise(Unary("not")),
    "Pad": pad,
    "Pow": elementwise(Binary("pow")),
    "Reciprocal": elementwise(Unary("reciprocal")),
    "ReduceMax": reduce_largest(is_least=False),
    "ReduceMean": reduce_mean(is_sum=False),
    "ReduceMin": reduce_largest(is_least=True),
    "ReduceSum": reduce_mean(is_sum=True),
    "ReduceSumSquare": sum_of_squares,
    "Relu": elementwise(Activation("relu")),
    "Reshape": reshape,
    "Resize": resize,
    "Sigmoid": elementwise(Activation("sigmoid")),
    "Slice": slices,
    "Softmax": softmax,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Sqrt": elementwise(Unary("sqrt")),
    "Squeeze": squeeze,
    "Sub": elementwise(Binary("sub")),
    "Tanh": elementwise(Activation("tanh")),
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": where,
}
