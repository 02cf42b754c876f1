"""A modern ONNX file spelled out as older exporters write it: norms and GELUs in their elementary operators."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

NORM_FORMS = ("pow_div", "mul_reciprocal", "pow_half", "two_subs", "batch_norm")
GELU_FORMS = ("half_last", "half_first", "half_inside", "mul_sqrt", "half_on_factor")
TANH_FORMS = ("pow", "products", "factored")


@dataclasses.dataclass
class Speller:
    """Writes the nodes that take a modern node's place."""

    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray]
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    count: int = 0

    def const(self, value: Any) -> str:
        self.count += 1
        name = f"spelled_constant_{self.count}"
        self.constants[name] = np.asarray(value, np.float32)
        return name

    def ints(self, *values: int) -> str:
        name = self.const(0)
        self.constants[name] = np.array(values, np.int64)
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        self.count += 1
        name = output or f"spelled_{self.count}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], name=f"n{self.count}", **attributes))
        return name

    def mean(self, x: str) -> str:
        return self.op("ReduceMean", x, axes=[-1], keepdims=1)

    def layer_norm(self, x: str, gain: str, bias: str, epsilon: float, output: str, form: str) -> None:
        mean = self.mean(x)
        centred = self.op("Sub", x, mean)
        other = self.op("Sub", x, mean) if form == "two_subs" else centred
        if form in ("mul_reciprocal", "batch_norm"):
            square = self.op("Mul", other, other)
        else:
            square = self.op("Pow", other, self.const(2))
        total = self.op("Add", self.mean(square), self.const(epsilon))
        if form == "pow_half":
            inverse = self.op("Pow", total, self.const(-0.5))
        else:
            root = self.op("Sqrt", total)
            if form in ("pow_div", "two_subs"):
                scaled = self.op("Mul", self.op("Div", centred, root), gain)
                self.op("Add", scaled, bias, output=output)
                return
            inverse = self.op("Reciprocal", root)
        if form == "batch_norm":
            factor = self.op("Mul", inverse, gain)
            shift = self.op("Sub", bias, self.op("Mul", mean, factor))
            self.op("Add", self.op("Mul", x, factor), shift, output=output)
        elif form == "pow_half":
            self.op("Add", self.op("Mul", centred, self.op("Mul", inverse, gain)), bias, output=output)
        else:
            self.op("Add", bias, self.op("Mul", gain, self.op("Mul", centred, inverse)), output=output)

    def gelu(self, x: str, output: str, form: str) -> None:
        argument = (
            self.op("Mul", x, self.const(math.sqrt(0.5)))
            if form == "mul_sqrt"
            else self.op("Div", x, self.const(math.sqrt(2)))
        )
        one_plus = self.op("Add", self.op("Erf", argument), self.const(1))
        if form == "half_last":
            self.op("Mul", self.op("Mul", x, one_plus), self.const(0.5), output=output)
        elif form == "half_inside":
            self.op("Mul", x, self.op("Mul", one_plus, self.const(0.5)), output=output)
        elif form == "half_on_factor":
            self.op("Div", self.op("Mul", one_plus, x), self.const(2), output=output)
        else:
            self.op("Mul", self.op("Mul", self.const(0.5), x), one_plus, output=output)

    def gelu_tanh(self, x: str, output: str, form: str) -> None:
        c = math.sqrt(2 / math.pi)
        if form == "factored":
            inner = self.op("Add", self.op("Mul", self.op("Mul", x, x), self.const(0.044715)), self.const(1))
            argument = self.op("Mul", self.op("Mul", x, self.const(c)), inner)
        else:
            cube = self.op("Pow", x, self.const(3)) if form == "pow" else self.op("Mul", x, self.op("Mul", x, x))
            inner = self.op("Add", x, self.op("Mul", self.const(0.044715), cube))
            argument = self.op("Mul", self.const(c), inner)
        one_plus = self.op("Add", self.const(1), self.op("Tanh", argument))
        self.op("Mul", self.op("Mul", x, self.const(0.5)), one_plus, output=output)

    def attention(self, node: onnx.NodeProto) -> None:
        q, k, v = node.input[:3]
        (_, heads, queries, channels), (_, kv_heads, keys, _) = self.shapes[q], self.shapes[k]
        if heads != kv_heads:
            times, shape = self.ints(1, 1, heads // kv_heads, 1, 1), self.ints(1, heads, keys, -1)
            apart = [self.op("Reshape", x, self.ints(1, kv_heads, 1, keys, -1)) for x in (k, v)]
            k, v = (self.op("Reshape", self.op("Tile", x, times), shape) for x in apart)
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Div", scores, self.const(math.sqrt(channels)))
        if any(a.name == "is_causal" and a.i for a in node.attribute):
            scores = self.op("Add", scores, self.const(np.triu(np.full((queries, keys), -1e4, np.float32), 1)))
        self.op("MatMul", self.op("Softmax", scores, axis=-1), v, output=node.output[0])


AXES_AS_ATTRIBUTE = {"ReduceMean": 18, "ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}


def spell_out(
    path: Path, target: Path, opset: int = 11, norm: str = "pow_div", gelu: str = "half_last", tanh: str = "pow"
) -> Path:
    """Write the modern file `path` in the dialect of an older tool: no LayerNormalization, Gelu, Attention or Gemm."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    out = Speller(shapes, constants)
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "LayerNormalization":
            epsilon = attributes.get("epsilon", 1e-5)
            out.layer_norm(node.input[0], node.input[1], node.input[2], epsilon, node.output[0], norm)
        elif node.op_type == "Gelu":
            if attributes.get("approximate", b"none") == b"tanh":
                out.gelu_tanh(node.input[0], node.output[0], tanh)
            else:
                out.gelu(node.input[0], node.output[0], gelu)
        elif node.op_type == "Attention":
            out.attention(node)
        elif node.op_type == "Gemm":
            matrix = constants[node.input[1]]
            name = out.const(matrix.T if attributes.get("transB", 0) else matrix)
            product = out.op("MatMul", node.input[0], name)
            out.op("Add", product, node.input[2], output=node.output[0])
        elif node.op_type in AXES_AS_ATTRIBUTE and len(node.input) > 1 and opset < AXES_AS_ATTRIBUTE[node.op_type]:
            attributes["axes"] = [int(a) for a in constants[node.input[1]].reshape(-1)]
            attributes.pop("noop_with_empty_axes", None)
            out.op(node.op_type, node.input[0], output=node.output[0], **attributes)
        else:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            for attribute in list(kept.attribute):
                if (kept.op_type, attribute.name) == ("Reshape", "allowzero") and opset < 14:
                    kept.attribute.remove(attribute)
            out.nodes.append(kept)
    used = {name for node in out.nodes for name in node.input}
    initializers = [onnx.numpy_helper.from_array(np.array(v, order="C"), k) for k, v in constants.items() if k in used]
    spelled = onnx.helper.make_graph(out.nodes, graph.name, graph.input, graph.output, initializers)
    old = onnx.helper.make_model(spelled, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=6)
    onnx.checker.check_model(old)
    onnx.save(old, target)
    return target
