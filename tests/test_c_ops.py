"""The C operators against their definition in Python: equal, element by element; float ones against float64."""

from __future__ import annotations

import ctypes
import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf, log_ndtr

from c_library import FIRMWARE, FLAGS, SOURCES, Guarded, Library, broadcast_of, execute, preprocessed_header, prototypes
from operator_case import ACTIVATIONS
from operator_cases import BROADCASTS, CASES, then_activation, then_residual
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType, QuantParams, TensorType
from picoformer.ops import Activation, Attention, LayerNorm, ReduceMean, Softmax, Transpose
from picoformer.ops.attention import EXP_ENTRIES, numerator_table
from picoformer.ops.fixedpoint import reciprocal, reciprocal_sqrt
from picoformer.ops.functions import FUNCTIONS
from test_fixedpoint import EDGES, MULTIPLIERS, RECIPROCAL_VALUES, SHIFTS, SQRT_VALUES, exact_requantize

MOVERS = {"pf_copy_blocks", "pf_transpose", "pf_position_ids", "pf_take_row", "pf_patches"}
FLOATS = {
    "linear",
    "attention",
    "layer_norm",
    *FUNCTIONS,
    "add",
    "mul",
    "embedding",
    "reduce_mean",
    "softmax",
    "rms_norm",
    "rope",
    "kv_append",
    "cached_attention",
    "relative_attention",
    "top_experts",
    "expert_weights",
    "expert_linear",
    "scale_rows",
    "depthwise",
    "max_pool",
    "average_pool",
}
ALIASES = {
    **{f"pf_{op}_{t}_{t}": (0,) for op in ("layer_norm", "layer_norm_gain", "requantize") for t in ("s8", "s16")},
    **{f"pf_attention_{t}_{t}": (0,) for t in ("s8", "s16")},
    **{f"pf_{op}_{t}_{t}": (0,) for op in ("rms_norm", "scale_rows") for t in ("s8", "s16")},
    **{f"pf_cached_attention_{k}_{v}_s16": (0,) for k in ("s8", "s16") for v in ("s8", "s16")},
    "pf_relative_attention_s16": (0,),
    "pf_rope_s16": (0,),
    "pf_table_s8_s8": (0,),
    "pf_interpolate_s16_s16": (0,),
    **{f"pf_{op}_{a}_{b}_{a}": (0,) for op in ("add", "mul") for a in ("s8", "s16") for b in ("s8", "s16")},
    **{f"pf_{op}_{a}_{b}_{b}": (1,) for op in ("add", "mul") for a, b in (("s8", "s16"), ("s16", "s8"))},
    **{f"pf_{op}_{t}_{t}_{t}": (0, 1) for op in ("add", "mul") for t in ("s8", "s16")},
    "pf_add_plain_s16": (0, 1),
}
"""Symbol → the activations its result may be written over, where the shapes agree."""

TOOLS = {
    "gcc": ["gcc"],
    "clang": ["clang"],
    "cortex-m4": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m4"],
    "cortex-m0": ["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m0"],
}


@pytest.fixture(scope="module", params=["gcc", "clang"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library.build(tmp_path_factory.mktemp("operators"), request.param)


@pytest.mark.parametrize("tool", TOOLS)
def test_compiles_without_a_warning(tool: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*TOOLS[tool], "-O2", *FLAGS, "-c", *map(str, SOURCES)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_needs_no_libc_and_keeps_no_state(tmp_path: Path) -> None:
    """Undefined symbols are the operators' own or string.h's; no object has a variable."""
    subprocess.run(["gcc", "-O2", *FLAGS, "-c", *map(str, SOURCES)], cwd=tmp_path, check=True)
    command = ["nm", "--format=posix", *(p.name for p in sorted(tmp_path.glob("*.o")))]
    listing = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[:2] for line in listing.splitlines() if not line.endswith(":")]
    foreign = {name for name, kind in symbols if kind == "U" and not name.startswith("pf_")}
    assert foreign <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
    assert {kind for _, kind in symbols} <= {"T", "t", "U", "R", "r"}


def test_every_prototype_is_tried() -> None:
    declared = set(prototypes(preprocessed_header()))
    assert set(CASES) | MOVERS | {f"pf_{name}_f32" for name in FLOATS} == declared


@pytest.mark.parametrize("symbol", CASES)
def test_equal_to_the_definition(symbol: str, library: Library) -> None:
    for case in CASES[symbol]():
        name, result = execute(library, case.lowered, *case.activations)
        assert name == symbol
        np.testing.assert_array_equal(result, case.expected, case.note)


@pytest.mark.parametrize("y", [DType.INT8, DType.INT16])
@pytest.mark.parametrize("symbol", [symbol for symbol in CASES if symbol.startswith("pf_linear_")])
def test_linear_with_an_activation(symbol: str, y: DType, library: Library) -> None:
    """One call gives what a linear layer and the table of an activation give one after another."""
    for case in CASES[symbol]():
        then, expected = then_activation(case, y)
        name, result = execute(library, case.lowered, *case.activations, then=then)
        assert name.rpartition("_")[0] == symbol.rpartition("_")[0]
        np.testing.assert_array_equal(result, expected, case.note)


@pytest.mark.parametrize("symbol", [s for s in CASES if s.startswith("pf_linear_") and s.endswith("_s16")])
def test_linear_added_to_a_residual(symbol: str, library: Library) -> None:
    """One call gives what a linear layer and a sum give one after another, limits of both included."""
    for case in CASES[symbol]():
        residual, expected = then_residual(case)
        name, result = execute(library, case.lowered, *case.activations, residual=residual)
        assert name == symbol
        np.testing.assert_array_equal(result, expected, case.note)


@pytest.mark.parametrize("symbol", ALIASES)
def test_in_place(symbol: str, library: Library) -> None:
    tried = 0
    for case in CASES[symbol]():
        for alias in ALIASES[symbol]:
            if case.activations[alias].shape == case.output.shape:
                _, result = execute(library, case.lowered, *case.activations, alias=alias)
                np.testing.assert_array_equal(result, case.expected, case.note)
                tried += 1
    assert tried


def test_words_equal_the_definition(library: Library) -> None:
    """The arithmetic of fixedpoint.h by itself, where the operators would show a difference only now and then."""
    place = ctypes.c_int32()
    by_reference = ctypes.POINTER(ctypes.c_int32)
    for symbol, argument, definition, values in (
        ("try_reciprocal", ctypes.c_uint32, reciprocal, RECIPROCAL_VALUES),
        ("try_reciprocal_sqrt", ctypes.c_uint64, reciprocal_sqrt, SQRT_VALUES),
    ):
        function = library.function(symbol, ctypes.c_uint32, argument, by_reference)
        expected, lead = definition(np.array(values, np.uint64))
        for value, y, exponent in zip(values, expected, lead, strict=True):
            assert (function(value, ctypes.byref(place)), place.value) == (y, exponent), (symbol, value)


def test_rescaling_equals_the_definition(library: Library) -> None:
    narrow = library.function("try_rescale", ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
    wide = library.function("try_rescale_wide", ctypes.c_int32, ctypes.c_int64, ctypes.c_int32, ctypes.c_int32)
    for shift in SHIFTS:
        for m in MULTIPLIERS:
            for acc in (*EDGES, *((2 * k + 1) << (shift - 1) for k in range(-3, 3) if shift < 29)):
                expected = exact_requantize(acc, m, shift, 0, DType.INT16)
                assert np.clip(narrow(acc, m, shift), -32768, 32767) == expected, (acc, m, shift)
                assert np.clip(wide(acc, m, shift), -32768, 32767) == expected, (acc, m, shift)
            for acc in (2**46 + 1, -(2**46) - 1, 2**31, 2**33 - 1) if shift > 16 else ():
                expected = exact_requantize(acc, m, shift, 0, DType.INT16)
                assert np.clip(wide(acc, m, shift), -32768, 32767) == expected, (acc, m, shift)


def test_numerators_equal_the_definition(library: Library) -> None:
    table = numerator_table(15)
    types = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_int32)
    function = library.function("try_numerator", ctypes.c_uint32, *types)
    for shift in SHIFTS:
        for m in MULTIPLIERS:
            ties = [(2 * k + 1) << (shift - 1) for k in range(9) if shift < 28]
            for distance in (0, 1, 2, 3, 511, 1023, 1024, 2**31, 2**32 - 1, *ties):
                index = min(1023, (distance * m + (1 << (shift - 1))) >> shift)
                assert function(table.ctypes.data, distance, m, shift) == table[index], (distance, m, shift)


def test_layer_norm_ties(library: Library) -> None:
    """A row factor of exactly 2^20 / 2^32 and distances of odd multiples of 2^11: results end in one half."""
    for odd in (1, 3, 5, 7):
        x = np.array([[2048 * odd, 0], [0, 2048 * odd]], np.int16)
        quant = QuantParams((1.0,))
        types = TensorType(x.shape, DType.INT16, quant), TensorType(x.shape, DType.INT16, quant)
        lowered = LayerNorm(1e-5).lower((Operand(types[0]),), types[1])
        y, half = (int(v[0]) for v in reciprocal_sqrt(np.array([(2048 * odd) ** 2 + lowered.epsilon])))
        exponent = next(e for e in range(200) if 1 << 30 <= (1 << (50 + e - half)) // y < 1 << 31)
        lowered = dataclasses.replace(lowered, mantissa=(1 << (50 + exponent - half)) // y, exponent=exponent)
        assert lowered.row_factor(np.array([(2048 * odd) ** 2 + lowered.epsilon])) == (1 << 20, 32)
        expected = [[(odd + 1) // 2, (1 - odd) // 2], [(1 - odd) // 2, (odd + 1) // 2]]
        assert lowered.execute(x).tolist() == expected
        assert execute(library, lowered, x)[1].tolist() == expected


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("symbol", ["pf_embedding_s8", "pf_embedding_s16", "pf_embedding_f32"])
def test_embedding_refuses_an_id_outside(symbol: str, bad: int, library: Library) -> None:
    ids = np.array([0, 4, bad], np.int32)
    if symbol.endswith("f32"):
        p = library.structure("pf_embedding_f32_params", table=np.zeros((5, 2), np.float32), rows=5, width=2)
        y = np.zeros((3, 2), np.float32)
    else:
        table, multiplier = np.zeros((5, 2), np.int8), np.zeros(5, np.int32)
        p = library.structure(
            "pf_embedding", table=table, multiplier=multiplier, rows=5, width=2, shift=32, zero_point=0
        )
        y = np.zeros((3, 2), np.int16)
    assert library.call(symbol, p, ids[:2].copy(), y, 2) == 0
    assert library.call(symbol, p, ids, y, 3) == -1


@pytest.mark.parametrize(
    "count,bytes_,dst_stride,src_stride", [(1, 1, 1, 1), (5, 3, 3, 3), (4, 3, 7, 3), (4, 2, 2, 9), (3, 16, 20, 40)]
)
def test_copy_blocks(count: int, bytes_: int, dst_stride: int, src_stride: int, library: Library) -> None:
    source = np.random.default_rng(0).integers(0, 256, count * src_stride).astype(np.uint8)
    y = Guarded((count * dst_stride,), np.uint8)
    expected = y.array.copy()
    for i in range(count):
        expected[i * dst_stride :][:bytes_] = source[i * src_stride :][:bytes_]
    library.call("pf_copy_blocks", y.array, source, count, bytes_, dst_stride, src_stride)
    np.testing.assert_array_equal(y.value, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.dtype("V3"), np.int64])
@pytest.mark.parametrize(
    "shape,permutation",
    [
        ((7,), (-1,)),
        ((3, 5), (-1, -2)),
        ((2, 3, 4), (-2, -1, -3)),
        ((2, 1, 3, 2, 2), (-1, -4, -3, -5, -2)),
        ((1, 2, 3, 1, 2, 3), (-1, -2, -3, -4, -5, -6)),
    ],
)
def test_transpose(shape: tuple[int, ...], permutation: tuple[int, ...], dtype: np.dtype, library: Library) -> None:
    size = np.dtype(dtype).itemsize
    x = (
        np.random.default_rng(0)
        .integers(0, 256, int(np.prod(shape)) * size)
        .astype(np.uint8)
        .view(dtype)
        .reshape(shape)
    )
    expected = np.ascontiguousarray(Transpose(permutation).compute(x))
    strides = np.array([x.strides[axis] for axis in permutation], np.int32)
    y = Guarded((x.size * size,), np.uint8)
    library.call("pf_transpose", y.array, x.view(np.uint8), x.ndim, np.array(expected.shape, np.int32), strides, size)
    np.testing.assert_array_equal(y.value, expected.reshape(-1).view(np.uint8))


# ---- float. The reference is the float64 meaning; 2e-6 of its largest magnitude is some 30 units in the last place,
# which sums of a few hundred terms in single precision keep.


def close(result: np.ndarray, reference: np.ndarray, tolerance: float = 2e-6) -> None:
    reference = np.asarray(reference, np.float64)
    assert np.isfinite(result).all()
    assert np.abs(result - reference).max(initial=0) <= tolerance * np.abs(reference).max(initial=0)


def floats(seed: int, *shape: int, spread: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, spread, shape)).astype(np.float32)


@pytest.mark.parametrize("rows,n,k", [(1, 1, 1), (3, 5, 7), (2, 4, 512), (5, 9, 66)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_f32(rows: int, n: int, k: int, has_bias: bool, library: Library) -> None:
    x, w, b = floats(0, rows, k), floats(1, n, k), floats(2, n)
    p = library.structure("pf_linear_f32_params", weight=w, bias=b if has_bias else None, n=n, k=k)
    y = Guarded((rows, n), np.float32)
    library.call("pf_linear_f32", p, x, y.array, rows)
    close(y.value, x.astype(np.float64) @ w.T.astype(np.float64) + (b if has_bias else 0))


@pytest.mark.parametrize(
    "queries,keys,heads,size,value_size", [(1, 1, 1, 1, 1), (3, 5, 2, 4, 3), (6, 2, 2, 4, 3), (9, 64, 4, 16, 16)]
)
@pytest.mark.parametrize("valid", [0, 1, None])
@pytest.mark.parametrize("spread", [0.5, 10.0])
@pytest.mark.parametrize("causal,shared", [(False, False), (True, True)])
def test_attention_f32(
    queries: int, keys: int, heads: int, size: int, value_size: int, valid: int | None, spread: float, causal: bool,
    shared: bool, library: Library,
) -> None:  # fmt: skip
    kv_heads = 1 if shared else heads
    q, k, v = (
        floats(0, queries, heads * size, spread=spread),
        floats(1, keys, kv_heads * size),
        floats(2, keys, kv_heads * value_size),
    )
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_size": size, "value_size": value_size}
    p = library.structure("pf_attention_f32_params", scale=size**-0.5, causal=int(causal), **sizes)
    valid = keys if valid is None else valid
    y, scratch = Guarded((queries, heads * value_size), np.float32), Guarded((keys,), np.float32)
    library.call("pf_attention_f32", p, q, k, v, y.array, queries, keys, valid, scratch.array)
    scale = float(np.float32(size**-0.5))
    wide = [x.astype(np.float64) for x in (q, k, v)]
    wide[0] *= scale  # in double precision, as Attention multiplies by its scale in single
    expected = Attention(heads, 1.0, causal, kv_heads).compute(*wide, np.int32(valid))
    close(y.value, expected, 2e-6 if spread < 1 else 1e-5)
    assert scratch.value.size


@pytest.mark.parametrize("rows,width", [(1, 1), (3, 7), (4, 64), (2, 768)])
@pytest.mark.parametrize("centre,spread", [(0.0, 1.0), (3.0, 0.01), (-1.0, 100.0)])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm_f32(rows: int, width: int, centre: float, spread: float, affine: bool, library: Library) -> None:
    x = floats(0, rows, width, spread=spread) + np.float32(centre)
    gain, bias = floats(1, width), floats(2, width)
    p = library.structure(
        "pf_layer_norm_f32_params",
        gain=gain if affine else None,
        bias=bias if affine else None,
        width=width,
        epsilon=1e-5,
    )
    y = Guarded((rows, width), np.float32, x)
    library.call("pf_layer_norm_f32", p, y.array, y.array, rows)
    close(y.value, LayerNorm(float(np.float32(1e-5))).compute(x, *((gain, bias) if affine else ())))


@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: op.function)
@pytest.mark.parametrize("low,high", [(-12, 12), (-1e-3, 1e-3), (-1, 1), (-200, 0), (-5, -2), (0, 100)])
def test_activation_f32(op: Activation, low: float, high: float, library: Library) -> None:
    x = np.linspace(low, high, 20001).astype(np.float32)
    if op.function in ("logarithm", "reciprocal", "square_root"):
        x = np.abs(x[np.abs(x) > 1e-4])  # where it is a number
    if op.function == "exponential":
        x = x[x < 80]
    y = Guarded(x.shape, np.float32, x)
    parameters = [np.array(op.parameters, np.float32)] if op.parameters else []
    library.call(f"pf_{op.function}_f32", *parameters, y.array, y.array, x.size)
    # parameters are rounded to single precision
    exact = Activation(op.function, tuple(map(float, np.array(op.parameters, np.float32))))
    close(y.value, exact.compute(x), 1e-5 if op.function == "exponential" and high > 50 else 2e-6)


@pytest.mark.parametrize("name,reference", [("add", np.add), ("mul", np.multiply)])
@pytest.mark.parametrize("shapes", BROADCASTS)
def test_elementwise_f32(
    name: str, reference: np.ufunc, shapes: tuple[tuple[int, ...], tuple[int, ...]], library: Library
) -> None:
    a, b = floats(0, *shapes[0]), floats(1, *shapes[1])
    y = Guarded(a.shape, np.float32)
    library.call(f"pf_{name}_f32", broadcast_of(library, a, b), a, b, y.array)
    np.testing.assert_array_equal(y.value, reference(a, b))


def test_embedding_f32(library: Library) -> None:
    table, ids = floats(0, 7, 5), np.array([6, 0, 3, 3], np.int32)
    p = library.structure("pf_embedding_f32_params", table=table, rows=7, width=5)
    y = Guarded((4, 5), np.float32)
    assert library.call("pf_embedding_f32", p, ids, y.array, 4) == 0
    np.testing.assert_array_equal(y.value, table[ids])


@pytest.mark.parametrize("outer,length,inner", [(1, 1, 1), (1, 64, 5), (3, 9, 2)])
@pytest.mark.parametrize("valid", [0, 1, None])
def test_reduce_mean_f32(outer: int, length: int, inner: int, valid: int | None, library: Library) -> None:
    x = floats(0, outer, length, inner)
    valid = length if valid is None else valid
    y = Guarded((outer, inner), np.float32)
    library.call("pf_reduce_mean_f32", x, y.array, outer, length, inner, valid)
    close(y.value, ReduceMean(-2, False).compute(x, np.int32(valid)))


@pytest.mark.parametrize("rows,width", [(1, 1), (3, 5), (2, 300)])
@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
def test_softmax_f32(rows: int, width: int, spread: float, library: Library) -> None:
    x = floats(0, rows, width, spread=spread)
    y = Guarded(x.shape, np.float32)
    library.call("pf_softmax_f32", x, y.array, rows, width)
    close(y.value, Softmax().compute(x))


def apply(library: Library, name: str, x: np.ndarray) -> np.ndarray:
    function = library.function(name, ctypes.c_float, ctypes.c_float)
    return np.array([function(v) for v in x.tolist()])


@pytest.mark.parametrize(
    "name,reference,low,high,bound",
    [
        ("pf_exp_f32", np.exp, -87.3, 88.7, 2.0**-22),
        ("pf_rsqrt_f32", lambda x: x**-0.5, 1e-30, 1e30, 2.0**-22),
        ("pf_sqrt_f32", np.sqrt, 1e-30, 1e30, 2.0**-22),
        ("pf_hyperbolic_tangent_f32", np.tanh, -10, 10, 2.0**-21),
        ("pf_exp_minus_one_f32", np.expm1, -20, 0, 2.0**-20),
        ("pf_log_one_plus_f32", np.log1p, 1e-9, 1, 2.0**-21),
        ("pf_logistic_f32", lambda x: 1 / (1 + np.exp(-x)), -80, 80, 2.0**-21),
        ("pf_normal_f32", lambda x: np.exp(log_ndtr(x)), -4, 8, 2.0**-19),
    ],
)
def test_functions_within_their_relative_error(
    name: str, reference, low: float, high: float, bound: float, library: Library
) -> None:
    space = np.geomspace if low > 0 else np.linspace
    x = space(low, high, 20011).astype(np.float32)
    x = x[x != 0]
    expected = reference(x.astype(np.float64))
    assert np.abs(apply(library, name, x) / expected - 1).max() < bound


def test_logarithm_within_its_error(library: Library) -> None:
    x = np.concatenate([np.geomspace(1.2e-38, 3e38, 40011), np.linspace(0.5, 2, 20011)]).astype(np.float32)
    exact = np.log(x.astype(np.float64))
    assert (np.abs(apply(library, "pf_natural_log_f32", x) - exact) < 2.0**-22 * (1 + np.abs(exact))).all()
    ends = apply(library, "pf_natural_log_f32", np.array([0.0, -1.0, 1.0]))
    assert ends[0] == -np.inf and np.isnan(ends[1]) and ends[2] == 0


def test_erf_within_its_absolute_error(library: Library) -> None:
    x = np.linspace(-6, 6, 20011).astype(np.float32)
    assert np.abs(apply(library, "pf_erf_f32", x) - erf(x.astype(np.float64))).max() < 2e-7


def test_functions_at_their_ends(library: Library) -> None:
    infinity = float("inf")
    assert apply(library, "pf_exp_f32", np.array([-infinity, -200.0, 0.0, 200.0, infinity])).tolist() == [
        0,
        0,
        1,
        infinity,
        infinity,
    ]
    assert apply(library, "pf_sqrt_f32", np.array([0.0, 1.0])).tolist() == [0, 1]
    assert apply(library, "pf_hyperbolic_tangent_f32", np.array([-100.0, 0.0, 100.0])).tolist() == [-1, 0, 1]
    assert apply(library, "pf_logistic_f32", np.array([-200.0, 0.0, 200.0])).tolist() == [0, 0.5, 1]
    for name in (
        "pf_exp_f32",
        "pf_sqrt_f32",
        "pf_erf_f32",
        "pf_normal_f32",
        "pf_hyperbolic_tangent_f32",
        "pf_logistic_f32",
    ):
        assert np.isnan(apply(library, name, np.array([float("nan")]))).all(), name


def test_the_header_and_the_table_agree_on_their_length() -> None:
    header = (FIRMWARE / "include" / "picoformer" / "fixedpoint.h").read_text()
    assert f"#define PF_EXP_ENTRIES {EXP_ENTRIES}u" in header
