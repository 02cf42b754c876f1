"""Post-training quantization: observe, choose grids, quantize the constants, bridge where a reader wants another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from picoformer.errors import ConfigError
from picoformer.ir import DType, Graph, Node, QuantParams, TensorType, verify
from picoformer.ir.operator import Array, LoweringError
from picoformer.ir.types import BLOCK
from picoformer.ops import (
    Add,
    Attention,
    Concat,
    DepthwiseConv,
    Embedding,
    ExpertLinear,
    LayerNorm,
    Linear,
    Mul,
    Patches,
    RelativeAttention,
    Requantize,
    RmsNorm,
    Rope,
)
from picoformer.ops.fixedpoint import quantize_real
from picoformer.ops.rope import ROTATION_QUANT
from picoformer.quantize.calibrate import Method, affine_int8, choose_range, symmetric
from picoformer.quantize.cost import constant_bytes
from picoformer.quantize.equalize import Equalization, equalize
from picoformer.quantize.grids import LAYOUT, assign_grids, ends
from picoformer.quantize.int4 import element_scales, quantize_int4
from picoformer.quantize.mixed import LEFT, choose_weights, widen_weights
from picoformer.quantize.observe import Observation, RunFloat, observe
from picoformer.quantize.rounding import Rounding, refine
from picoformer.quantize.sensitivity import choose_wide
from picoformer.quantize.weights import (
    BIAS_LIMIT,
    WEIGHT_LIMITS,
    bias_scale_floor,
    on_factors,
    quantize_bias,
    quantize_constant,
    quantize_rows,
)

BIAS_TOLERANCE = 1e-5
"""Two scales this close are one: of files, some multiply input and weight scale in float32, some in float64."""


@dataclass(frozen=True)
class QuantizeSettings:
    """How to quantize. `method` chooses int8 ranges, `percentile` is its share in percent where it is "percentile";
    `headroom` widens 16-bit ranges beyond the calibration data; `rounding` chooses the integers of weights;
    `bias_correction` lets biases take up the mean error of each Linear. `inputs` is the type of the model's float
    inputs, `activations` INT16 that of every value, `weights` that of the Linears' weights; a scheme sets the latter
    two (see `schemes`). With INT4 weights `block` 32 gives each 32 of a row a multiplier of their own, 0 gives none.
    Linears at the ends stay INT8 (see `ends`), and so do tables of Embeddings; `weight_types`, by the weight's or
    table's name in the float graph, says otherwise for single ones.

    Beyond that, values whose rounding costs the outputs most are widened to 16 bits as long as no more than the share
    `widen` of all multiply-accumulates reads 16 bits and RAM grows by no more than that share (see `sensitivity`).
    `equalization` moves channel scales between layers, where the outputs gain by it or always (see `equalize`).
    `budget` is the most bytes that constants may take: weights become INT4 where it costs the outputs least (see
    `mixed`). `wide_weights` is the share of the constants' bytes that weights may grow by: those whose rounding costs
    the outputs most become INT8, then INT16 (see `mixed`); None is a default of whoever asks, and here 0.

    `given`: constants, by their name in the float graph, whose types and integers stand already; they are kept.
    `uniform` gives all values one type and one scale each, as TFLite takes them (see `grids`, `uniform_settings`)."""

    method: Method = "percentile"
    percentile: float = 99.99
    headroom: float = 1.5
    inputs: DType = DType.INT8
    constants: DType = DType.INT8
    rounding: Rounding = "gptq"
    bias_correction: bool = True
    activations: DType = DType.INT8
    widen: float = 0.01
    equalization: Equalization = "off"
    budget: int | None = None
    weights: DType = DType.INT8
    block: int = BLOCK
    weight_types: Mapping[str, DType] = field(default_factory=dict)
    given: Mapping[str, tuple[TensorType, Array]] = field(default_factory=dict)
    wide_weights: float | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        for name, dtype in [("weights", self.weights), *self.weight_types.items()]:
            if dtype not in WEIGHT_LIMITS:
                raise ConfigError(f"'{name}' is to be {dtype.name.lower()}: weights are int16, int8 or int4")
        if self.budget is not None and self.wide_weights:
            raise ConfigError("a budget makes weights narrower and wide_weights wider; give one of them")
        if self.block not in (0, BLOCK):
            raise ConfigError(f"a block of {self.block} weights is not known; use {BLOCK}, or 0 for none")

    @property
    def refines(self) -> bool:
        """Whether integers are chosen anew once types and grids stand (see `rounding`)."""
        return self.rounding != "nearest" or self.bias_correction


def uniform_settings(settings: QuantizeSettings) -> QuantizeSettings:
    """The settings for one type for all: constants go with the activations, and nothing is widened or narrowed."""
    if settings.budget is not None or settings.wide_weights or settings.weight_types:
        raise ConfigError("weights are all int8 where all is of one type; leave out the budget and wide weights")
    return replace(
        settings, uniform=True, widen=0.0, wide_weights=0.0, inputs=settings.activations,
        constants=settings.activations,
    )  # fmt: skip


def quantize(
    graph: Graph,
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    settings: QuantizeSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Graph:
    """The graph with every value typed for the int8 scheme and every constant an integer.

    `calibration`: input name → (samples, *shape). Raises DataError for data that cannot be used, LoweringError naming
    a node that has no integer form.
    """
    settings = settings or QuantizeSettings()
    graph = equalized(graph, calibration, run_float, settings)
    seen = observe(graph, calibration, run_float, progress)
    typed = _choose_types(graph, seen, calibration, run_float, settings)
    if not settings.refines:
        return typed
    rounding, corrects = settings.rounding, settings.bias_correction
    return verify(refine(graph, typed, calibration, rounding, corrects, progress, frozenset(settings.given)))


def _choose_types(
    graph: Graph,
    seen: Mapping[str, Observation],
    calibration: Mapping[str, Array],
    run_float: RunFloat,
    settings: QuantizeSettings,
) -> Graph:
    """The quantized graph, constants rounded to nearest, with what is widened and lowered by measurement."""
    wanted, centred = wanted_types(graph, settings), settings.bias_correction

    def build(values: Mapping[str, DType], weights: Mapping[str, DType]) -> Graph:
        mixed = replace(settings, weight_types={**settings.weight_types, **weights})
        return build_typed(graph, seen, mixed, {**wanted, **values})

    wide, chosen = {}, {}
    if settings.widen > 0:
        wide = choose_wide(graph, calibration, run_float, lambda more: build(more, {}), settings.widen, centred)
    count = functools.partial(constant_bytes, refined=settings.refines)
    if settings.budget is not None:
        chosen = choose_weights(
            graph, calibration, run_float, lambda more: build(wide, more), count, settings.budget, centred
        )
    elif settings.wide_weights:
        chosen = widen_weights(
            graph,
            calibration,
            run_float,
            lambda more: build(wide, more),
            count,
            settings.wide_weights,
            centred,
            LEFT if settings.rounding == "gptq" else 1.0,
        )
    return build(wide, chosen)


def equalized(graph: Graph, calibration: Mapping[str, Array], run_float: RunFloat, settings: QuantizeSettings) -> Graph:
    """The float graph that `quantize` quantizes: `graph` itself unless the settings ask for equalization.

    Whoever compares values inside with those of the quantized graph needs it, and then quantizes with "off".
    """
    if settings.equalization == "off":
        return graph

    def build(moved: Graph, seen: Mapping[str, Observation]) -> Graph:
        return build_typed(moved, seen, settings, wanted_types(moved, settings))

    return equalize(graph, calibration, run_float, build, settings.equalization == "on", settings.bias_correction)


def wanted_types(graph: Graph, settings: QuantizeSettings) -> dict[str, DType]:
    """What the settings ask for by name: 16 bits for every value, or for the float inputs."""
    floats = [name for name, type_ in graph.types.items() if type_.dtype is DType.FLOAT32]
    wide = settings.activations is DType.INT16
    chosen = [name for name in floats if name not in graph.constants and (wide or name in graph.inputs)]
    return dict.fromkeys(chosen, DType.INT16 if wide else settings.inputs)


def build_typed(
    graph: Graph, seen: Mapping[str, Observation], settings: QuantizeSettings, wanted: Mapping[str, DType]
) -> Graph:
    """The quantized graph, constants rounded to nearest. `wanted`: value → INT16 for one that is to be 16 bits wide and
    that Linears are to read as it is; without it a Linear reads many rows of 16 bits through a bridge to 8. A Reshape,
    Transpose, Slice or Concat of a wanted value is wanted, too."""
    wanted = dict(wanted)
    for node in graph.nodes:
        if isinstance(node.op, (*LAYOUT, Patches)) and any(wanted.get(name) is DType.INT16 for name in node.inputs):
            wanted[node.output] = DType.INT16
    types = assign_grids(graph, seen, settings.method, settings.percentile, settings.headroom, wanted, settings.uniform)
    return verify(TypedBuilder(graph, seen, types, settings, wanted).build())


class TypedBuilder:
    """Collects the nodes, types and constants of the quantized graph while walking the float one."""

    def __init__(
        self,
        graph: Graph,
        seen: Mapping[str, Observation],
        types: dict[str, TensorType],
        settings: QuantizeSettings,
        wanted: Mapping[str, DType],
    ) -> None:
        self.graph = graph
        self.wanted = wanted
        self.seen = seen
        self.settings = settings
        self.types: dict[str, TensorType] = {name: types.get(name, graph.types[name]) for name in graph.inputs}
        self.assigned = types
        self.ends = ends(graph)
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []

    def build(self) -> Graph:
        for node in self.graph.nodes:
            names = [self._operand(node, index, name) for index, name in enumerate(node.inputs)]
            if isinstance(node.op, Linear | ExpertLinear):
                names = self._linear_constants(node, names)
            elif isinstance(node.op, DepthwiseConv):
                names = self._depthwise_constants(node, names)
            self.types[node.output] = self.assigned.get(node.output, self.graph.types[node.output])
            if isinstance(node.op, Patches):  # on the grid of what is read, a bridge maybe
                self.types[node.output] = replace(self.types[names[0]], shape=self.graph.types[node.output].shape)
            self.nodes.append(Node(node.name, node.op, tuple(names), node.output))
        return self.graph.replace(nodes=self.nodes, types=self.types, constants=self.constants)

    def _operand(self, node: Node, index: int, name: str) -> str:
        """The name under which `node` reads this operand: a bridge, an integer constant, or the value itself."""
        if name in self.graph.constants:
            weighted = isinstance(node.op, Linear | ExpertLinear | DepthwiseConv)
            return name if weighted else self._constant(node, index, name)
        current = self.types[name]
        if current.quant is None:
            return name
        is_wide = current.dtype is DType.INT16 and current.rows > 1
        reads = isinstance(node.op, Linear | Patches | DepthwiseConv)
        reads = reads or (isinstance(node.op, ExpertLinear) and index == 0)
        if reads and is_wide and self.wanted.get(name) is not DType.INT16:
            return self._bridge(name, "int8", affine_int8(*self._range(name)))
        if isinstance(node.op, Attention) and index < 3:
            all_wide = all(self.types[operand].dtype is DType.INT16 for operand in node.inputs[:3])
            usable = current.dtype is DType.INT8 and current.quant.zero_point == 0
            if not usable and not all_wide:
                low, high = self._range(name)
                return self._bridge(name, "symmetric", symmetric(max(-low, high), DType.INT8))
        return name

    def _range(self, name: str) -> tuple[float, float]:
        return choose_range(self.seen[name], self.settings.method, self.settings.percentile)

    def _bridge(self, name: str, suffix: str, quant: QuantParams) -> str:
        """A Requantize of `name`, made once and shared by all its readers."""
        bridge = f"{name}_{suffix}"
        if bridge not in self.types:
            self.types[bridge] = TensorType(self.types[name].shape, DType.INT8, quant)
            self.nodes.append(Node(bridge, Requantize(), (name,), bridge))
        return bridge

    def _store(self, wish: str, value: Array, type_: TensorType) -> str:
        """Keep a constant under its own name, or a fresh one when that name holds other numbers or another grid."""
        name, count = wish, 0
        while name in self.types and not (
            self.types[name] == type_ and name in self.constants and np.array_equal(self.constants[name], value)
        ):
            count += 1
            name = f"{wish}_{count}"
        self.types[name], self.constants[name] = type_, value
        return name

    def _tied_floor(self, name: str) -> Array | None:
        """The least scales of a table that is a Linear's weight too, so that the bias fits; None without one."""
        for node in self.graph.consumers[name]:
            if isinstance(node.op, Linear) and node.inputs[1] == name and len(node.inputs) == 3:
                quant = self.assigned[node.inputs[0]].quant
                assert quant is not None
                return bias_scale_floor(self.graph.constants[node.inputs[2]], quant.per_tensor_scale)
        return None

    def _constant(self, node: Node, index: int, name: str) -> str:
        value, type_ = self.graph.constants[name], self.graph.types[name]
        if name in self.settings.given and not isinstance(node.op, LayerNorm | RmsNorm | Concat):
            return self._store(name, *self.settings.given[name][::-1])
        if type_.dtype is not DType.FLOAT32 or isinstance(node.op, LayerNorm | RmsNorm | RelativeAttention):
            return self._store(name, value, type_)
        if isinstance(node.op, Embedding):
            dtype = DType.INT16 if self.settings.weight_types.get(name) is DType.INT16 else DType.INT8
            table, quant = quantize_rows(value, self._tied_floor(name), dtype)
            return self._store(name, table, TensorType(type_.shape, dtype, quant))
        if isinstance(node.op, Rope):
            limit = DType.INT16.maximum * ROTATION_QUANT.per_tensor_scale
            steps = quantize_real(np.clip(value, -limit, limit), ROTATION_QUANT, DType.INT16)
            return self._store(name, steps, TensorType(type_.shape, DType.INT16, ROTATION_QUANT))
        if isinstance(node.op, Concat):
            out = self.assigned[node.output]
            assert out.quant is not None
            moved = TensorType(type_.shape, out.dtype, out.quant)
            return self._store(name, quantize_real(value, out.quant, out.dtype), moved)
        if isinstance(node.op, Add | Mul):
            out = self.assigned[node.output]
            is_stream = isinstance(node.op, Add) and out.dtype is DType.INT16 and out.quant is not None
            stream = out.quant.per_tensor_scale if is_stream and out.quant is not None else 0.0
            steps, quant = quantize_constant(value, self.settings.constants, stream)
            return self._store(name, steps, TensorType(type_.shape, self.settings.constants, quant))
        raise NotImplementedError(f"node '{node.name}' ({node.op.kind}): constant operand {index} '{name}'")

    def _weight_type(self, node: Node) -> DType:
        """INT16, INT8 or INT4, as the settings say for this Linear."""
        default = DType.INT8 if node.name in self.ends else self.settings.weights
        return self.settings.weight_types.get(node.inputs[weight_index(node)], default)

    def _linear_constants(self, node: Node, names: list[str]) -> list[str]:
        x_quant = self.types[names[0]].quant
        assert x_quant is not None
        x_scale = x_quant.per_tensor_scale
        first = weight_index(node)
        weight_name, *rest = node.inputs[first:]
        if weight_name in self.settings.given:
            return [*names[:first], *self._given_weight(node, x_scale, weight_name, rest)]
        weight = self.graph.constants[weight_name]
        bias = self.graph.constants[rest[0]] if rest else None
        floor = None if bias is None else bias_scale_floor(bias, x_scale)
        for other in self._sharing(node, weight_name):  # its bias has to fit the scales that this one chooses
            least = bias_scale_floor(self.graph.constants[other.inputs[2]], self._scale_read(other))
            floor = least if floor is None else np.maximum(floor, least)
        dtype = self._weight_type(node)
        if dtype is DType.INT4:
            quant = quantize_int4(weight, floor, self.settings.block)[1]
        else:
            quant = quantize_rows(weight, floor, dtype)[1]
        stored = self.types.get(weight_name)
        tied = weight_name in self.constants and stored is not None and stored.dtype is dtype
        if tied and stored is not None and stored.quant is not None:  # a table, or another layer's: stored once
            quant, name = stored.quant, weight_name
        else:
            out_quant = self.assigned[node.output].quant
            assert out_quant is not None
            quant = on_factors(quant, x_scale / np.asarray(out_quant.scale, np.float64))
            limit = WEIGHT_LIMITS[dtype]
            steps = np.clip(np.rint(weight / element_scales(quant, weight.shape)), -limit, limit).astype(dtype.numpy)
            name = self._store(weight_name, steps, TensorType(weight.shape, dtype, quant))
        result = [*names[:first], name]
        if bias is not None:
            bias_steps, bias_quant = quantize_bias(bias, x_scale, quant)
            result.append(self._store(rest[0], bias_steps, TensorType(bias.shape, DType.INT32, bias_quant)))
        return result

    def _sharing(self, node: Node, weight: str) -> list[Node]:
        """The other Linears with a bias that read a weight, as layers do that share theirs."""
        return [
            other for other in self.graph.consumers[weight]
            if other is not node and isinstance(other.op, Linear) and len(other.inputs) > 2
        ]  # fmt: skip

    def _scale_read(self, node: Node) -> float:
        """The scale of what a Linear will read, or a smaller one."""
        quant = self.assigned[node.inputs[0]].quant
        assert quant is not None
        return quant.per_tensor_scale

    def _given_weight(self, node: Node, x_scale: float, weight: str, rest: list[str]) -> list[str]:
        """A weight as given; a given bias as it is where it lies on the accumulators' grid, else rounded to that."""
        type_, steps = self.settings.given[weight]
        assert type_.quant is not None
        names = [self._store(weight, steps, type_)]
        if rest:
            real, scales = self.graph.constants[rest[0]], x_scale * np.asarray(type_.quant.scale, np.float64)
            if (np.abs(real) >= scales * BIAS_LIMIT).any():
                raise LoweringError(f"node '{node.name}' (Linear): the bias '{rest[0]}' passes 31 bits on its grid")
            bias, quant = quantize_bias(real, x_scale, type_.quant)
            if rest[0] in self.settings.given:
                stored, integers = self.settings.given[rest[0]]
                on_grid = stored.quant is not None and np.allclose(
                    stored.quant.scale, scales, rtol=BIAS_TOLERANCE, atol=0
                )
                bias = integers if on_grid and stored.dtype is DType.INT32 else bias
            names.append(self._store(rest[0], bias, TensorType(real.shape, DType.INT32, quant)))
        return names

    def _depthwise_constants(self, node: Node, names: list[str]) -> list[str]:
        """Weights of 8 bits, a scale per channel."""
        x_quant = self.types[names[0]].quant
        assert x_quant is not None
        x_scale = x_quant.per_tensor_scale
        weight, *rest = (self.graph.constants[name] for name in node.inputs[1:])
        floor = None if not rest else bias_scale_floor(rest[0], x_scale)
        rows, quant = quantize_rows(weight.T, floor)
        steps, by_channel = np.ascontiguousarray(rows.T), QuantParams(quant.scale, 0, -1)
        result = [names[0], self._store(node.inputs[1], steps, TensorType(steps.shape, DType.INT8, by_channel))]
        if rest:
            bias, bias_quant = quantize_bias(rest[0], x_scale, quant)
            result.append(self._store(node.inputs[2], bias, TensorType(bias.shape, DType.INT32, bias_quant)))
        return result


def weight_index(node: Node) -> int:
    """Which operand of a Linear or ExpertLinear is its weight."""
    return 2 if isinstance(node.op, ExpertLinear) else 1
