"""Quantized operators to try: every type variant, odd sizes, random and degenerate data, fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import decode_cases
import relative_cases
import window_cases
from operator_case import ACTIVATIONS, S8, S16, TYPES, Case, of, patterns
from picoformer.ir.operator import Array, Operand, Operator
from picoformer.ir.types import BLOCK, DType, QuantParams, TensorType
from picoformer.ops import (
    Add,
    Attention,
    Embedding,
    LayerNorm,
    Linear,
    LoweredAdd,
    LoweredInterpolatedTable,
    LoweredTable,
    Mul,
    ReduceMean,
    Requantize,
    Softmax,
)

LINEAR_SIZES = [(1, 1, 1), (1, 5, 3), (3, 4, 7), (2, 9, 16), (5, 3, 33), (4, 8, 64)]


def linear(x: DType, y: DType, wide: bool = False) -> Iterator[Case]:
    """Linear: (rows, n, k); with `wide`, sums past 31 bits."""
    rng = np.random.default_rng(1)
    for rows, n, k in [(1, 1, 600), (3, 6, 1031)] if wide else LINEAR_SIZES:
        for note, data in patterns(rng, (rows, k), x):
            weight = rng.choice([-127, 127], (n, k)) if wide or note == "saturated" else rng.integers(-127, 128, (n, k))
            scales = rng.uniform(0.001, 0.02, n)
            if n > 2:
                scales[1] = 1e-9
            if wide and note == "spike":
                weight = np.full((n, k), 127)
            x_type = of((rows, k), x, 0.03 if x is S8 else 0.0002, -17)
            w_type = TensorType((n, k), S8, QuantParams(tuple(scales), 0, -2))
            x_scale = x_type.quant.scale[0]
            b_type = TensorType((n,), DType.INT32, QuantParams(tuple(scales * x_scale), 0, -1))
            bias = rng.integers(-50000, 50001, n).astype(np.int32)
            spread = 0.01 * 127 * math.sqrt(k) * x_scale * -x.minimum
            for fit in (1.0, 0.02):  # the second saturates most results and takes a shift below 32
                scale = spread * fit / -y.minimum
                constants = (Operand(w_type, weight.astype(np.int8)), Operand(b_type, bias))
                yield Case(
                    f"{rows}x{n}x{k} {note} {fit}",
                    Linear(),
                    (Operand(x_type), *constants),
                    of((rows, n), y, scale, 11),
                    (data,),
                )


INT4_SIZES = [(1, 1, 1), (3, 2, 7), (2, 5, 31), (1, 3, 32), (5, 3, 33), (4, 4, 64), (6, 7, 97)]


def linear_int4(x: DType, y: DType, wide: bool = False) -> Iterator[Case]:
    """Linear with int4 weights, with and without blocks: (rows, n, k); with `wide`, sums past 31 bits."""
    rng = np.random.default_rng(10)
    for rows, n, k in [(1, 1, 700), (3, 4, 1031)] if wide else INT4_SIZES:
        for blocks in (True,) if wide else (False, True):
            for note, data in patterns(rng, (rows, k), x):
                weight = rng.integers(-7, 8, (n, k))
                multipliers = rng.integers(1, 16, (n, -(-k // BLOCK)))
                if wide or note in ("saturated", "lowest"):
                    weight, multipliers[0] = rng.choice([-7, 7], (n, k)), 15
                if wide and note == "lowest":
                    weight = np.full((n, k), 7)
                weight[-1] *= n == 1 or note != "random"
                scales = rng.uniform(0.001, 0.02, n)
                x_type = of((rows, k), x, 0.03 if x is S8 else 0.0002, -17)
                rows_of_multipliers = tuple(map(tuple, multipliers.tolist())) if blocks else ()
                w_type = TensorType((n, k), DType.INT4, QuantParams(tuple(scales), 0, -2, rows_of_multipliers))
                x_scale = x_type.quant.scale[0]
                b_type = TensorType((n,), DType.INT32, QuantParams(tuple(scales * x_scale), 0, -1))
                bias = rng.integers(-5000, 5001, n).astype(np.int32)
                spread = 0.01 * 7 * (8 if blocks else 1) * math.sqrt(k) * x_scale * -x.minimum
                for fit in (1.0, 0.02):
                    constants = (Operand(w_type, weight.astype(np.int8)), Operand(b_type, bias))
                    yield Case(
                        f"{rows}x{n}x{k} {'blocks ' if blocks else ''}{note} {fit}",
                        Linear(),
                        (Operand(x_type), *constants),
                        of((rows, n), y, spread * fit / -y.minimum, 11),
                        (data,),
                    )


def then_activation(case: Case, y: DType) -> tuple[LoweredTable | LoweredInterpolatedTable, Array]:
    """An activation to `y` behind a case of a Linear, any table at all, and what the two give one after another."""
    rng = np.random.default_rng(case.output.elements)
    entries = 256 if case.output.dtype is S8 else 513
    kept = y if entries == 256 else S16
    table = rng.integers(kept.minimum, kept.maximum + 1, entries).astype(kept.numpy)
    table[: entries // 2 : 3] = kept.minimum
    table[entries // 2 :: 3] = kept.maximum
    kind = LoweredTable if entries == 256 else LoweredInterpolatedTable
    lowered = kind(table, case.output, of(case.output.shape, y, 0.1, 0))
    return lowered, lowered.execute(case.expected)


def then_residual(case: Case) -> tuple[Array, Array]:
    """A residual on the grid of what a Linear gives, extremes among it, and their sum."""
    rng = np.random.default_rng(case.output.elements)
    residual = rng.choice([S16.minimum, S16.maximum, 0, 1, -1], case.expected.shape).astype(np.int16)
    residual.flat[::2] = rng.integers(S16.minimum, S16.maximum + 1, residual.size)[::2]
    lowered = Add().lower((Operand(case.output), Operand(case.output)), case.output)
    assert isinstance(lowered, LoweredAdd)
    assert lowered.is_plain
    return residual, lowered.execute(residual, case.expected)


ATTENTION_SIZES = [
    (1, 1, 1, 1, 1, 1, False),
    (3, 5, 2, 2, 4, 3, False),
    (2, 17, 3, 3, 7, 6, False),
    (7, 7, 1, 1, 16, 16, False),
    (1, 40, 2, 2, 5, 1, False),
    (3, 9, 4, 2, 5, 3, False),  # groups of queries share keys and values
    (1, 1, 1, 1, 1, 1, True),
    (5, 5, 2, 2, 4, 3, True),
    (8, 8, 6, 2, 3, 5, True),
    (4, 17, 3, 1, 7, 6, True),  # more keys than queries: the first row sees 14
    (7, 3, 2, 1, 5, 2, True),  # fewer: the first four rows see none
    (35, 35, 1, 1, 2, 2, True),
]


def attention(x: DType, y: DType) -> Iterator[Case]:
    """Attention: (queries, keys, heads, key heads, head size, value size, causal); valid lengths from none to all."""
    rng = np.random.default_rng(2)
    for queries, keys, heads, kv_heads, size, value_size, causal in ATTENTION_SIZES:
        shapes = (queries, heads * size), (keys, kv_heads * size), (keys, kv_heads * value_size)
        columns = zip(*(patterns(rng, shape, x) for shape in shapes), strict=True)
        for (note, q), (_, k), (_, v) in columns:
            for valid in (None, 0, 1, (keys + 1) // 2, keys):
                types = []
                for value, own, width in ((q, heads, size), (k, kv_heads, size), (v, kv_heads, value_size)):
                    scales = np.repeat(rng.uniform(0.01, 0.05, own), width) / (1 if x is S8 else 256)
                    types.append(TensorType(value.shape, x, QuantParams(tuple(scales), 0, -1)))
                steps = np.asarray(types[2].quant.scale).reshape(kv_heads, -1)[:, 0] * x.minimum / y.minimum
                steps = np.repeat(steps, heads // kv_heads * value_size)
                out = TensorType((queries, heads * value_size), y, QuantParams(tuple(steps), 0, -1))
                inputs = tuple(Operand(t) for t in types)
                data: tuple[Array, ...] = (q, k, v)
                if valid is not None:
                    inputs += (Operand(TensorType((), DType.INT32)),)
                    data += (np.int32(valid),)
                scale = 1.0 / math.sqrt(size) * (1.0 if note != "saturated" else 40.0)
                op = Attention(heads, scale, causal, kv_heads)
                sizes = f"{queries}x{keys}x{heads}/{kv_heads}x{size}x{value_size}{' causal' if causal else ''}"
                yield Case(f"{sizes} {note} valid {valid}", op, inputs, out, data)


NORM_SIZES = [(1, 1), (3, 2), (2, 5), (4, 16), (3, 63), (2, 512)]


def layer_norm(x: DType, y: DType, gain: bool) -> Iterator[Case]:
    """LayerNorm: (rows, width)."""
    rng = np.random.default_rng(3)
    for rows, n in NORM_SIZES:
        for note, data in patterns(rng, (rows, n), x):
            for epsilon, scale in ((1e-5, 0.05), (1e-12, 0.0003), (1e-2, 1.0)):
                affine: tuple[Operand, ...] = ()
                if gain:
                    g = rng.normal(1, 0.5, n).astype(np.float32)
                    g[0] = 0.0
                    affine = (
                        Operand(TensorType((n,)), g),
                        Operand(TensorType((n,)), rng.normal(0, 1, n).astype(np.float32)),
                    )
                out = of((rows, n), y, (5.0 if note != "spike" else 2.0) / -y.minimum, -9)
                inputs = (Operand(of((rows, n), x, scale if x is S8 else scale / 256, 21)), *affine)
                yield Case(f"{rows}x{n} {note} {epsilon:g} {scale:g}", LayerNorm(epsilon), inputs, out, (data,))


def table(y: DType) -> Iterator[Case]:
    """Activations of every int8 number."""
    data = np.concatenate([np.arange(-128, 128), [-128, 127, 0]]).astype(np.int8)
    for op in ACTIVATIONS:
        for scale, zero in ((0.03, 0), (0.1, -77)):
            out = of(data.shape, y, 4.0 / -y.minimum, -30)
            x = Operand(of(data.shape, S8, scale, zero))
            yield Case(f"{op} {scale} {zero}", op, (x,), out, (data,))


def interpolated(y: DType) -> Iterator[Case]:
    """Activations of every int16 number, or of every seventh."""
    every = np.arange(-32768, 32768).astype(np.int16)
    for index, op in enumerate(ACTIVATIONS):
        data = every[index % 6 :: 7 if index % 6 else 1]
        for scale in (8.0 / 32768, 1.0 / 32768):
            out = of(data.shape, y, 8.0 / -y.minimum, -30)
            x = Operand(of(data.shape, S16, scale))
            yield Case(f"{op} {scale}", op, (x,), out, (data,))


BROADCASTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1,), (1,)),
    ((5, 7), (5, 7)),
    ((3, 4, 5), (5,)),
    ((3, 4, 5), (4, 5)),
    ((3, 4, 5), (4, 1)),
    ((2, 3, 1), (3, 1)),
    ((6, 5), (6, 1)),
    ((3, 7), (1,)),
]


def elementwise(op: Operator, a: DType, b: DType, y: DType) -> Iterator[Case]:
    """Add or Mul on broadcasts; the second operand an activation."""
    rng = np.random.default_rng(4)
    for shape_a, shape_b in BROADCASTS:
        for (note, left), (_, right) in zip(patterns(rng, shape_a, a), patterns(rng, shape_b, b), strict=True):
            for fit in (1.0, 0.01, 300.0):
                a_type = of(shape_a, a, 4.0 / -a.minimum, 40)
                b_type = of(shape_b, b, 3.0 / -b.minimum, -128)
                out = of(shape_a, y, 7.0 * fit / -y.minimum, -5)
                yield Case(
                    f"{shape_a} {shape_b} {note} {fit}", op, (Operand(a_type), Operand(b_type)), out, (left, right)
                )
            for multiple in (1, 7, 255, 256) if isinstance(op, Add) and (a, b, y) == (S16, S8, S16) else ():
                grid = of(shape_a, a, 2.0**-10)
                inputs = (Operand(grid), Operand(of(shape_b, b, multiple * 2.0**-10, 0)))
                yield Case(f"{shape_a} {shape_b} {note} times {multiple}", op, inputs, grid, (left, right))


def plain_add() -> Iterator[Case]:
    """int16 sums that need no rescaling."""
    rng = np.random.default_rng(5)
    for shape_a, shape_b in BROADCASTS:
        for (note, left), (_, right) in zip(patterns(rng, shape_a, S16), patterns(rng, shape_b, S16), strict=True):
            types = [of(s, S16, 0.001) for s in (shape_a, shape_b, shape_a)]
            yield Case(
                f"{shape_a} {shape_b} {note}", Add(), (Operand(types[0]), Operand(types[1])), types[2], (left, right)
            )


def requantize(x: DType, y: DType) -> Iterator[Case]:
    """Requantize with factors from far below to far above one."""
    rng = np.random.default_rng(6)
    for shape in ((1,), (7,), (3, 11)):
        for note, data in patterns(rng, shape, x):
            for factor in (1e-9, 0.004, 0.3, 0.5, 1.0, 3.7, 200.0, 2.0**20):
                types = of(shape, x, 0.01 * factor, 33), of(shape, y, 0.01, -64)
                yield Case(f"{shape} {note} {factor:g}", Requantize(), (Operand(types[0]),), types[1], (data,))


def embedding(table: DType, y: DType) -> Iterator[Case]:
    """Embedding: (rows, width, ids)."""
    rng, most = np.random.default_rng(7), table.maximum
    for rows, width, count in ((1, 1, 1), (5, 3, 9), (40, 17, 6)):
        weight = rng.integers(-most, most + 1, (rows, width)).astype(table.numpy)
        quant = QuantParams(tuple(rng.uniform(0.127, 12.7, rows) / most), 0, -2)
        ids = rng.integers(0, rows, count).astype(np.int32)
        ids[0], ids[-1] = rows - 1, 0
        for scale in (10.0, 0.1):
            inputs = (
                Operand(TensorType((count,), DType.INT32)),
                Operand(TensorType((rows, width), table, quant), weight),
            )
            yield Case(
                f"{rows}x{width} {count} ids {scale}",
                Embedding(),
                inputs,
                of((count, width), y, scale / -y.minimum, 3),
                (ids,),
            )


MEAN_SIZES = [(1, 1, 1), (1, 5, 3), (2, 7, 1), (3, 64, 5), (1, 300, 2)]


def reduce_mean(x: DType, y: DType) -> Iterator[Case]:
    """ReduceMean: (outer, length, inner), valid lengths from none to all."""
    rng = np.random.default_rng(8)
    for outer, length, inner in MEAN_SIZES:
        for note, data in patterns(rng, (outer, length, inner), x):
            for valid in (None, 0, 1, (length + 1) // 2, length) if outer == 1 else (None,):
                for fit in (1.0, 0.1):
                    types = of(data.shape, x, 1.0 / -x.minimum, 50), of((outer, inner), y, fit / -y.minimum, -20)
                    inputs: tuple[Operand, ...] = (Operand(types[0]),)
                    arguments: tuple[Array, ...] = (data,)
                    if valid is not None:
                        inputs += (Operand(TensorType((), DType.INT32)),)
                        arguments += (np.int32(valid),)
                    yield Case(
                        f"{outer}x{length}x{inner} {note} valid {valid} {fit}",
                        ReduceMean(-2, False),
                        inputs,
                        types[1],
                        arguments,
                    )


def softmax(x: DType, y: DType) -> Iterator[Case]:
    """Softmax: (rows, width)."""
    rng = np.random.default_rng(9)
    for rows, width in ((1, 1), (3, 2), (2, 9), (4, 33), (1, 400)):
        for note, data in patterns(rng, (rows, width), x):
            for reach in (0.5, 8.0, 400.0):
                out = of((rows, width), y, 1 / 256 if y is S8 else 1 / 32768, -128)
                inputs = (Operand(of((rows, width), x, reach / -x.minimum, 60)),)
                yield Case(f"{rows}x{width} {note} {reach}", Softmax(), inputs, out, (data,))


def _table() -> dict[str, Callable[[], Iterator[Case]]]:
    cases: dict[str, Callable[[], Iterator[Case]]] = {}

    def enter(symbol: str, maker: Callable[..., Iterator[Case]], *arguments: Any) -> None:
        cases[symbol] = lambda: maker(*arguments)

    for o, y in TYPES.items():
        enter(f"pf_linear_wide_s16_{o}", linear, S16, y, True)
        enter(f"pf_linear_wide_s4_s16_{o}", linear_int4, S16, y, True)
        enter(f"pf_table_s8_{o}", table, y)
        enter(f"pf_interpolate_s16_{o}", interpolated, y)
        enter(f"pf_embedding_{o}", embedding, S8, y)
        enter(f"pf_embedding_s16_{o}", embedding, S16, y)
        for i, x in TYPES.items():
            enter(f"pf_linear_{i}_{o}", linear, x, y)
            enter(f"pf_linear_s4_{i}_{o}", linear_int4, x, y)
            enter(f"pf_attention_{i}_{o}", attention, x, y)
            enter(f"pf_layer_norm_{i}_{o}", layer_norm, x, y, False)
            enter(f"pf_layer_norm_gain_{i}_{o}", layer_norm, x, y, True)
            enter(f"pf_requantize_{i}_{o}", requantize, x, y)
            enter(f"pf_reduce_mean_{i}_{o}", reduce_mean, x, y)
            enter(f"pf_softmax_{i}_{o}", softmax, x, y)
            for j, z in TYPES.items():
                enter(f"pf_add_{i}_{j}_{o}", elementwise, Add(), x, z, y)
                enter(f"pf_mul_{i}_{j}_{o}", elementwise, Mul(), x, z, y)
    enter("pf_add_plain_s16", plain_add)
    for symbol, maker, arguments in (*decode_cases.table(), *relative_cases.table(), *window_cases.table()):
        enter(symbol, maker, *arguments)
    return cases


CASES = _table()
"""C symbol of each integer operator → its cases."""
