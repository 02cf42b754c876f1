"""C of a decode step beside the cases: what it refuses, the rows of a block, float against the float64 meaning."""

from __future__ import annotations

import numpy as np
import pytest

from c_library import Guarded, Library
from decode_calls import attention_sizes, cache_sizes
from decode_cases import CACHE_SIZES, ROPE_SIZES, cached_attention, expert_linear, kv_append, rope
from operator_case import S8, S16
from picoformer.ops import CachedAttention, ExpertLinear, ExpertWeights, KvAppend, RmsNorm, Rope, ScaleRows, TopExperts
from test_c_ops import close, floats

INDEX = -1
FAR = 2**31 - 1


@pytest.fixture(scope="module", params=["gcc", "clang"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library.build(tmp_path_factory.mktemp("operators"), request.param)


def test_position_ids(library: Library) -> None:
    y = Guarded((5,), np.int32)
    library.call("pf_position_ids", y.array, 7, 5)
    assert y.value.tolist() == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32])
def test_take_row(dtype: type, library: Library) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (3, 7)).astype(dtype)
    size = x.itemsize * 7
    for count in (1, 2, 3):
        y = Guarded((7,), dtype)
        assert library.call("pf_take_row", y.array, x, count, 3, size) == 0
        np.testing.assert_array_equal(y.value, x[count - 1])
    for bad in (0, 4, -1, FAR, -(2**31)):
        y = Guarded((7,), np.uint8)
        untouched = y.array.copy()
        assert library.call("pf_take_row", y.array, x, bad, 3, size) == INDEX
        np.testing.assert_array_equal(y.value, untouched)


PAST = [(-1, 1), (9, 1), (8, 2), (0, 3), (0, -1), (FAR, 1), (FAR, FAR), (-(2**31), 1), (1, FAR)]
"""(position, count) that are no place in a cache of 9 for a block of 2."""


@pytest.mark.parametrize("position,count", PAST)
@pytest.mark.parametrize("symbol", [*(f"s{a}_s{b}" for a in (8, 16) for b in (8, 16)), "f32"])
def test_a_cache_refuses_what_lies_outside(symbol: str, position: int, count: int, library: Library) -> None:
    """The same that the definition refuses, and nothing is written."""
    x, y = (np.dtype({"s8": "int8", "s16": "int16", "f32": "float32"}[t]) for t in (symbol.split("_") * 2)[:2])
    case = next(c for c in kv_append(S8, S16) if c.note.startswith("9x5"))
    sizes = cache_sizes(case.lowered) | {"block": 2}  # type: ignore[arg-type]
    if symbol == "f32":
        p = library.structure("pf_kv_append_f32_params", **sizes)
    else:
        p = library.structure("pf_kv_append", case.lowered, **sizes)
    cache = Guarded((9, 5), y, np.ones((9, 5)))
    assert library.call(f"pf_kv_append_{symbol}", p, np.zeros((2, 5), x), cache.array, position, count) == INDEX
    assert (cache.value == 1).all()
    with pytest.raises(IndexError, match="outside the cache of 9 entries"):
        KvAppend().compute(np.ones((9, 5)), np.zeros((2, 5)), np.int32(position), np.int32(count))


@pytest.mark.parametrize("position", [-1, 8, 9, FAR, -(2**31)])
def test_attention_and_rotations_refuse_a_position_outside(position: int, library: Library) -> None:
    case = next(c for c in cached_attention(S16, S16, S16) if c.note.startswith("3x9"))
    p = library.structure("pf_cached_attention", case.lowered, **attention_sizes(case.lowered))  # type: ignore[arg-type]
    q, k, v, _ = case.activations
    y = Guarded(case.output.shape, np.int16)
    arguments = (q, k, v, y.array, position, 3, np.zeros(4096, np.uint8))
    assert library.call("pf_cached_attention_s16_s16_s16", p, *arguments) == INDEX
    with pytest.raises(IndexError, match="outside the cache of 9 entries"):
        case.lowered.execute(q, k, v, np.int64(position))
    turned = next(c for c in rope() if c.note.startswith("3x2x6"))
    table = turned.lowered.rotations  # type: ignore[attr-defined]
    fields = {"positions": 9, "heads": 2, "head_size": 6, "rotary": 4, "interleaved": 0}
    p = library.structure("pf_rope", rotations=table, **fields)
    x = turned.activations[0]
    assert library.call("pf_rope_s16", p, x, Guarded(x.shape, np.int16).array, position, 3) == INDEX
    with pytest.raises(IndexError, match="9 rows of the rotations"):
        turned.lowered.execute(x, np.int64(position))


@pytest.mark.parametrize("bad", [-1, 2, FAR])
def test_an_expert_that_is_not_there_is_an_error(bad: int, library: Library) -> None:
    case = next(c for c in expert_linear(S8, S8, S8) if c.note.startswith("3x5x3 of 2"))
    x, ids = case.activations
    ids = ids.copy()
    ids[2, case.op.slot] = bad  # type: ignore[attr-defined]
    low = case.lowered.linear  # type: ignore[attr-defined]
    experts = library.structure("pf_experts", experts=2, chosen=2, slot=1, weight_bytes=16)
    p = library.structure("pf_linear", low, n=5, k=3, block=0, table=None, entries=0)
    y = Guarded((3, 5), np.int8)
    assert library.call("pf_expert_linear_s8_s8", experts, p, x, ids, y.array, 3, None) == INDEX
    with pytest.raises(IndexError, match="outside the 2 there are"):
        case.lowered.execute(x, ids)
    weights = np.zeros((3, 2), np.int16)
    numerators = np.ones(1024, np.uint16)
    p = library.structure(
        "pf_expert_weights", table=numerators, experts=2, chosen=2, multiplier=1, shift=32, mantissa=1 << 30,
        exponent=31,
    )  # fmt: skip
    assert library.call("pf_expert_weights_s8_s16", p, np.zeros((3, 2), np.int8), ids, weights, 3) == INDEX
    with pytest.raises(IndexError, match="outside the 2 there are"):
        ExpertWeights().compute(np.zeros((3, 2)), ids)


# ---- float against the float64 meaning


@pytest.mark.parametrize("rows,width", [(1, 1), (3, 7), (4, 64), (2, 768)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("has_gain", [False, True])
def test_rms_norm_f32(rows: int, width: int, spread: float, has_gain: bool, library: Library) -> None:
    x, gain = floats(0, rows, width, spread=spread), floats(1, width)
    p = library.structure("pf_rms_norm_f32_params", gain=gain if has_gain else None, width=width, epsilon=1e-5)
    y = Guarded(x.shape, np.float32, x)
    library.call("pf_rms_norm_f32", p, y.array, y.array, rows)
    close(y.value, RmsNorm(float(np.float32(1e-5))).compute(x, *((gain,) if has_gain else ())))


@pytest.mark.parametrize("rows,heads,size,rotary,positions,position", ROPE_SIZES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_f32(
    rows: int, heads: int, size: int, rotary: int, positions: int, position: int, interleaved: bool, library: Library
) -> None:
    x, table = floats(0, rows, heads * size), floats(1, positions, rotary)
    fields = {"positions": positions, "heads": heads, "head_size": size, "rotary": rotary}
    p = library.structure("pf_rope_f32_params", rotations=table, interleaved=int(interleaved), **fields)
    y = Guarded(x.shape, np.float32, x)
    assert library.call("pf_rope_f32", p, y.array, y.array, position, rows) == 0
    close(y.value, Rope(heads, rotary, interleaved).compute(x.astype(np.float64), table, np.int32(position)))


@pytest.mark.parametrize("transposed", [False, True])
def test_kv_append_f32(transposed: bool, library: Library) -> None:
    cache, rows = floats(0, *((5, 9) if transposed else (9, 5))), floats(1, 3, 5)
    p = library.structure("pf_kv_append_f32_params", transposed=int(transposed), positions=9, width=5, block=3)
    for position, count in ((0, 3), (7, 2), (9, 0)):
        y = Guarded(cache.shape, np.float32, cache)
        assert library.call("pf_kv_append_f32", p, rows, y.array, position, count) == 0
        expected = KvAppend(transposed).compute(cache, rows, np.int32(position), np.int32(count))
        np.testing.assert_array_equal(y.value, expected)


@pytest.mark.parametrize("rows,positions,heads,kv_heads,size,value_size,position", CACHE_SIZES)
@pytest.mark.parametrize("slopes", ["none", "exact", "bfloat16"])
def test_cached_attention_f32(
    rows: int, positions: int, heads: int, kv_heads: int, size: int, value_size: int, position: int, slopes: str,
    library: Library,
) -> None:  # fmt: skip
    q, k, v = (
        floats(0, rows, heads * size),
        floats(1, positions, kv_heads * size),
        floats(2, kv_heads * value_size, positions),
    )
    slope = tuple(np.abs(floats(3, heads)).tolist()) if slopes != "none" else ()
    op = CachedAttention(heads, kv_heads, 0.4, 16, slope, slopes == "bfloat16")
    sizes = {"head_size": size, "value_size": value_size, "positions": positions}
    p = library.structure(
        "pf_cached_attention_f32_params", slopes=op.slope_units.astype(np.float32) if slope else None, scale=0.4,
        bfloat16=int(op.bfloat16), heads=heads, kv_heads=kv_heads, **sizes,
    )  # fmt: skip
    y = Guarded((rows, heads * value_size), np.float32)
    with library.scratch(4 * positions) as scratch:
        assert library.call("pf_cached_attention_f32", p, q, k, v, y.array, position, rows, scratch) == 0
    wide = [a.astype(np.float64) for a in (q, k, v)]
    close(y.value, op.compute(*wide, np.int32(position)), 1e-5)


@pytest.mark.parametrize("rows,experts,chosen", [(1, 1, 1), (4, 8, 2), (3, 5, 5)])
def test_experts_f32(rows: int, experts: int, chosen: int, library: Library) -> None:
    logits = floats(0, rows, experts)
    logits[:, -1] = logits[:, 0]
    ids = Guarded((rows, chosen), np.int32)
    library.call("pf_top_experts_f32", logits, ids.array, rows, experts, chosen)
    np.testing.assert_array_equal(ids.value, TopExperts(chosen).compute(logits))
    weights = Guarded((rows, chosen), np.float32)
    assert library.call("pf_expert_weights_f32", logits, ids.array, weights.array, rows, experts, chosen) == 0
    close(weights.value, ExpertWeights().compute(logits, ids.value))
    x, w, b = floats(1, rows, 9), floats(2, experts * 4, 9), floats(3, experts * 4)
    fields = {"experts": experts, "chosen": chosen, "slot": chosen - 1}
    each = library.structure("pf_experts", weight_bytes=0, **fields)
    for bias in (None, b):
        p = library.structure("pf_linear_f32_params", weight=w, bias=bias, n=4, k=9)
        y = Guarded((rows, 4), np.float32)
        assert library.call("pf_expert_linear_f32", each, p, x, ids.array, y.array, rows) == 0
        op = ExpertLinear(chosen - 1, experts)
        close(y.value, op.compute(x.astype(np.float64), ids.value, w, *([] if bias is None else [bias])))
    y = Guarded(x.shape, np.float32, x)
    library.call("pf_scale_rows_f32", y.array, weights.array, y.array, rows, 9, chosen, chosen - 1)
    np.testing.assert_array_equal(y.value, ScaleRows(chosen - 1).compute(x, weights.value))
    ids.array[0, chosen - 1] = experts
    assert library.call("pf_expert_linear_f32", each, p, x, ids.array, y.array, rows) == INDEX
    assert library.call("pf_expert_weights_f32", logits, ids.array, weights.array, rows, experts, chosen) == INDEX
