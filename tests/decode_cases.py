"""Quantized operators of a decode step to try: every type, odd sizes, random and degenerate data, fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from operator_case import S8, S16, TYPES, Case, of, patterns
from picoformer.ir.operator import Array, Operand
from picoformer.ir.types import BLOCK, DType, QuantParams, TensorType
from picoformer.ops import (
    CachedAttention,
    ExpertLinear,
    ExpertWeights,
    KvAppend,
    Linear,
    RmsNorm,
    Rope,
    ScaleRows,
    TopExperts,
)
from picoformer.ops.experts import WEIGHT_QUANT
from picoformer.ops.rope import ROTATION_QUANT

NUMBER = Operand(TensorType((), DType.INT32))
NORM_SIZES = [(1, 1), (3, 2), (2, 5), (4, 16), (3, 63), (2, 512)]


def rms_norm(x: DType, y: DType) -> Iterator[Case]:
    """RmsNorm: (rows, width), with and without a gain."""
    rng = np.random.default_rng(20)
    for rows, n in NORM_SIZES:
        for note, data in [*patterns(rng, (rows, n), x), ("zero", np.zeros((rows, n), x.numpy))]:
            for epsilon, scale in ((1e-5, 0.05), (1e-12, 0.0003), (1e-2, 1.0)):
                for gain in (False, True):
                    g = rng.normal(1, 0.5, n).astype(np.float32)
                    g[0] = 0.0 if n > 1 else -1.5
                    constants = (Operand(TensorType((n,)), g),) if gain else ()
                    out = of((rows, n), y, (5.0 if note != "spike" else 2.0) / -y.minimum, -9)
                    inputs = (Operand(of((rows, n), x, scale if x is S8 else scale / 256, 21)), *constants)
                    note_ = f"{rows}x{n} {note} {epsilon:g} {scale:g} {'gain' if gain else ''}"
                    yield Case(note_, RmsNorm(epsilon), inputs, out, (data,))


ROPE_SIZES = [(1, 1, 2, 2, 1, 0), (3, 2, 6, 4, 9, 5), (2, 3, 8, 8, 7, 5), (5, 1, 33, 16, 5, 0), (1, 4, 64, 64, 3, 2)]


def rope() -> Iterator[Case]:
    """Rope: (rows, heads, head size, elements turned, positions, position), pairs of both kinds, rotations up to 2."""
    rng = np.random.default_rng(21)
    for rows, heads, size, rotary, positions, position in ROPE_SIZES:
        for interleaved in (False, True):
            for note, data in patterns(rng, (rows, heads * size), S16):
                table = rng.integers(-32767, 32768, (positions, rotary))
                if note in ("saturated", "lowest"):
                    table = rng.choice([-32767, 32767], (positions, rotary))
                if note == "equal":
                    table = np.tile([16384, 0], (positions, rotary // 2))
                if note == "small":  # halves: every odd element is a tie
                    table = np.tile([8192, -16384], (positions, rotary // 2))
                rotations = Operand(TensorType(table.shape, S16, ROTATION_QUANT), table.astype(np.int16))
                grid = of(data.shape, S16, 0.001)
                yield Case(
                    f"{rows}x{heads}x{size}/{rotary} at {position} {'interleaved ' * interleaved}{note}",
                    Rope(heads, rotary, interleaved),
                    (Operand(grid), rotations, NUMBER),
                    grid,
                    (data, np.int32(position)),
                )


APPEND_SIZES = [(1, 1, 1, 0, 1), (9, 5, 3, 4, 2), (8, 4, 8, 0, 8), (7, 33, 4, 3, 4), (6, 3, 2, 5, 1), (5, 2, 3, 5, 0)]


def kv_append(x: DType, y: DType) -> Iterator[Case]:
    """KvAppend: (positions, width, rows, position, count), in both orders and with all bits or fewer."""
    rng = np.random.default_rng(22)
    for positions, width, block, position, count in APPEND_SIZES:
        for transposed in (False, True):
            for note, data in patterns(rng, (block, width), x):
                for bits, factor in ((16, 1.0), (13, 0.125), (7, 3.7), (8, 2.0**-8), (2, 200.0)):
                    limit = 1 << (min(bits, y.bits) - 1)
                    shape = (width, positions) if transposed else (positions, width)
                    cache = rng.integers(-limit, limit, shape).astype(y.numpy)
                    grid = of(shape, y, 0.01)
                    inputs = (Operand(grid), Operand(of(data.shape, x, 0.01 * factor, 33)), NUMBER, NUMBER)
                    note_ = f"{positions}x{width} {count} at {position} {'columns ' * transposed}{bits} bits {note}"
                    given = (cache, data, np.int32(position), np.int32(count))
                    yield Case(note_, KvAppend(transposed, bits), inputs, grid, given)


CACHE_SIZES = [
    (1, 1, 1, 1, 1, 1, 0),
    (1, 5, 2, 2, 4, 3, 0),  # one key seen of five
    (3, 9, 4, 2, 5, 5, 4),
    (8, 8, 6, 2, 3, 5, 0),  # a whole window
    (2, 40, 3, 1, 7, 6, 37),
    (1, 130, 2, 1, 64, 8, 129),  # queries lose bits
]


def cached_attention(keys: DType, values: DType, y: DType) -> Iterator[Case]:
    """CachedAttention: (rows, positions, heads, key heads, head size, value size, position), also with slopes."""
    rng = np.random.default_rng(23)
    for rows, positions, heads, kv_heads, size, value_size, position in CACHE_SIZES:
        for key_bits in (16, 13) if keys is S16 else (8,):
            limit = 1 << (key_bits - 1)
            shapes = (rows, heads * size), (positions, kv_heads * size), (kv_heads * value_size, positions)
            columns = [patterns(rng, shape, dtype) for shape, dtype in zip(shapes, (S16, keys, values), strict=True)]
            for (note, q), (_, k), (_, v) in zip(*columns, strict=True):
                for slopes in ((), tuple(float(s) for s in rng.uniform(-0.5, 0.5, heads))):
                    kept = np.clip(k, -limit, limit - 1).astype(k.dtype)
                    reach = 6.0 if note != "saturated" else 200.0
                    types = (
                        of(q.shape, S16, math.sqrt(reach) / 32768),
                        of(k.shape, keys, math.sqrt(reach) / limit),
                        of(v.shape, values, 3.0 / -values.minimum),
                    )
                    out = of((rows, heads * value_size), y, 3.0 / -y.minimum, 0)
                    op = CachedAttention(heads, kv_heads, 1.0 / math.sqrt(size), key_bits, slopes)
                    sizes = f"{rows}x{positions} at {position} {heads}/{kv_heads}x{size}x{value_size}"
                    yield Case(
                        f"{sizes} {key_bits} bits {'slopes ' if slopes else ''}{note}",
                        op,
                        (*map(Operand, types), NUMBER),
                        out,
                        (q, kept, v, np.int32(position)),
                    )


LINEAR_SIZES = [(1, 1, 1), (1, 5, 3), (3, 4, 7), (5, 3, 33), (2, 6, 1031)]


def linear_int16(x: DType, y: DType) -> Iterator[Case]:
    """Linear with int16 weights: (rows, n, k)."""
    rng = np.random.default_rng(24)
    for rows, n, k in LINEAR_SIZES:
        for note, data in patterns(rng, (rows, k), x):
            weight = rng.integers(-32767, 32768, (n, k))
            if note in ("saturated", "lowest"):
                weight = rng.choice([-32767, 32767], (n, k))
                weight[0] = 32767
            scales = rng.uniform(0.001, 0.02, n) / 256
            x_type = of((rows, k), x, 0.03 if x is S8 else 0.0002, -17)
            x_scale = x_type.quant.scale[0]
            w_type = TensorType((n, k), S16, QuantParams(tuple(scales), 0, -2))
            b_type = TensorType((n,), DType.INT32, QuantParams(tuple(scales * x_scale), 0, -1))
            bias = rng.integers(-50000000, 50000001, n).astype(np.int32)
            spread = 0.01 * 127 * math.sqrt(k) * x_scale * -x.minimum
            for fit in (1.0, 0.02):
                constants = (Operand(w_type, weight.astype(np.int16)), Operand(b_type, bias))
                yield Case(
                    f"{rows}x{n}x{k} {note} {fit}",
                    Linear(),
                    (Operand(x_type), *constants),
                    of((rows, n), y, spread * fit / -y.minimum, 11),
                    (data,),
                )


def top_experts(x: DType) -> Iterator[Case]:
    """TopExperts: (rows, experts, chosen), with many ties."""
    rng = np.random.default_rng(25)
    for rows, experts, chosen in ((1, 1, 1), (4, 8, 2), (3, 5, 5), (2, 64, 6)):
        for note, data in patterns(rng, (rows, experts), x):
            out = TensorType((rows, chosen), DType.INT32)
            yield Case(
                f"{rows}x{experts} {note}", TopExperts(chosen), (Operand(of(data.shape, x, 0.1, 5)),), out, (data,)
            )


def expert_weights(x: DType) -> Iterator[Case]:
    """ExpertWeights: (rows, experts, chosen)."""
    rng = np.random.default_rng(26)
    for rows, experts, chosen in ((1, 1, 1), (4, 8, 2), (3, 5, 5), (2, 64, 6)):
        for note, data in patterns(rng, (rows, experts), x):
            for reach in (0.5, 8.0, 400.0):
                ids = np.stack([rng.permutation(experts)[:chosen] for _ in range(rows)]).astype(np.int32)
                inputs = (Operand(of(data.shape, x, reach / -x.minimum, 60)), _ids(ids))
                out = TensorType((rows, chosen), S16, WEIGHT_QUANT)
                yield Case(f"{rows}x{experts} {note} {reach}", ExpertWeights(), inputs, out, (data, ids))


def _ids(ids: Array) -> Operand:
    return Operand(TensorType(ids.shape, DType.INT32))


EXPERT_SIZES = [(1, 1, 1, 1, 1), (3, 2, 5, 3, 2), (4, 3, 4, 33, 2), (5, 4, 7, 64, 3)]
WIDE_EXPERT_SIZES = [(3, 2, 3, 1031, 2)]


def expert_linear(x: DType, y: DType, weight: DType, wide: bool = False) -> Iterator[Case]:
    """ExpertLinear: (rows, experts, n, k, chosen); with `wide`, sums past 31 bits."""
    rng = np.random.default_rng(27)
    most = 127 if weight is S8 else 7
    for rows, experts, n, k, chosen in WIDE_EXPERT_SIZES if wide else EXPERT_SIZES:
        for blocks in ((True,) if wide else (False, True)) if weight is DType.INT4 else (False,):
            for note, data in patterns(rng, (rows, k), x):
                shape = (experts * n, k)
                values = rng.choice([-most, most], shape) if wide else rng.integers(-most, most + 1, shape)
                multipliers = rng.integers(1, 16, (experts * n, -(-k // BLOCK)))
                if wide:
                    multipliers[:] = 15
                scales = rng.uniform(0.001, 0.02, experts * n)
                x_type = of((rows, k), x, 0.03 if x is S8 else 0.0002, -17)
                x_scale = x_type.quant.scale[0]
                rows_of_multipliers = tuple(map(tuple, multipliers.tolist())) if blocks else ()
                w_type = TensorType(shape, weight, QuantParams(tuple(scales), 0, -2, rows_of_multipliers))
                bias = rng.integers(-5000, 5001, experts * n).astype(np.int32)
                b_quant = QuantParams(tuple(scales * x_scale), 0, -1)
                ids = rng.integers(0, experts, (rows, chosen)).astype(np.int32)
                constants = (
                    Operand(w_type, values.astype(np.int8)),
                    Operand(TensorType((experts * n,), DType.INT32, b_quant), bias),
                )
                spread = 0.01 * most * (8 if blocks else 1) * math.sqrt(k) * x_scale * -x.minimum
                for fit in (1.0, 0.02):
                    yield Case(
                        f"{rows}x{n}x{k} of {experts} {'blocks ' if blocks else ''}{note} {fit}",
                        ExpertLinear(chosen - 1, experts),
                        (Operand(x_type), _ids(ids), *constants),
                        of((rows, n), y, spread * fit / -y.minimum, 11),
                        (data, ids),
                    )


def scale_rows(x: DType, y: DType) -> Iterator[Case]:
    """ScaleRows: (rows, width, chosen)."""
    rng = np.random.default_rng(28)
    for rows, width, chosen in ((1, 1, 1), (4, 7, 2), (3, 33, 3)):
        for note, data in patterns(rng, (rows, width), x):
            for fit in (1.0, 0.01, 300.0):
                weights = rng.choice([0, 32767, int(rng.integers(0, 32768))], (rows, chosen)).astype(np.int16)
                if note == "random":
                    weights = rng.integers(-32768, 32768, weights.shape).astype(np.int16)
                inputs = (
                    Operand(of(data.shape, x, 4.0 / -x.minimum, 40)),
                    Operand(TensorType(weights.shape, S16, WEIGHT_QUANT)),
                )
                out = of(data.shape, y, 4.0 * fit / -y.minimum, -5)
                yield Case(f"{rows}x{width} {note} {fit}", ScaleRows(chosen - 1), inputs, out, (data, weights))


def table() -> Iterator[tuple[str, Callable[..., Iterator[Case]], tuple[Any, ...]]]:
    """(C symbol, generator of its cases, arguments)."""
    yield "pf_rope_s16", rope, ()
    for i, x in TYPES.items():
        yield f"pf_top_experts_{i}", top_experts, (x,)
        yield f"pf_expert_weights_{i}_s16", expert_weights, (x,)
    for o, y in TYPES.items():
        for weight, name in ((S8, ""), (DType.INT4, "s4_")):
            yield f"pf_expert_linear_wide_{name}s16_{o}", expert_linear, (S16, y, weight, True)
            for i, x in TYPES.items():
                yield f"pf_expert_linear_{name}{i}_{o}", expert_linear, (x, y, weight)
        for i, x in TYPES.items():
            yield f"pf_rms_norm_{i}_{o}", rms_norm, (x, y)
            yield f"pf_kv_append_{i}_{o}", kv_append, (x, y)
            yield f"pf_linear_s16_{i}_{o}", linear_int16, (x, y)
            yield f"pf_scale_rows_{i}_{o}", scale_rows, (x, y)
            for j, z in TYPES.items():
                yield f"pf_cached_attention_{i}_{j}_{o}", cached_attention, (x, z, y)
