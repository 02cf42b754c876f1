"""Attention with a bias of distances: what it means beside T5's, in float C, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import relative_cases
from c_library import Guarded, Library
from operator_case import S8, S16, of
from picoformer.ir import TensorType
from picoformer.ir.operator import LoweringError, Operand
from picoformer.models.relative_positions import relative_buckets
from picoformer.ops import RelativeAttention
from relative_cases import NUMBER, SIZES
from test_c_ops import close, floats

torch.set_num_threads(1)

FAR = 2**31 - 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library.build(tmp_path_factory.mktemp("operators"))


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_t5s(causal: bool) -> None:
    """Samples side by side, each with a number of its own, against scores that are spelled out."""
    chance, (heads, size, rows, keys) = np.random.default_rng(3), (3, 5, 4, 23)
    q, k, v = (chance.normal(size=(2, n, heads * size)).astype(np.float32) for n in (rows, keys, keys))
    bias = chance.normal(size=(8, heads)).astype(np.float32)
    op = RelativeAttention(heads, 0.7, causal, relative_buckets(8, 10, not causal))
    numbers = np.array([19, 2], np.int32)
    found = op.compute(q, k, v, bias, numbers)
    for sample, number in enumerate(numbers):
        first = int(number) if causal else 0
        for row in range(rows):
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                seen = [j for j in range(keys) if (j <= first + row if causal else j < number)]
                scores = [
                    float(q[sample, row, part] @ k[sample, j, part]) * 0.7
                    + bias[op.buckets[np.clip(j - first - row, -10, 0 if causal else 10) + 10], head]
                    for j in seen
                ]
                weights = torch.softmax(torch.tensor(scores), 0).numpy()
                np.testing.assert_allclose(found[sample, row, part], weights @ v[sample, seen, part], atol=1e-5)


@pytest.mark.parametrize("rows,positions,heads,size,value_size,number", SIZES)
@pytest.mark.parametrize("causal", [True, False])
def test_float_c_is_the_float_meaning(
    rows: int, positions: int, heads: int, size: int, value_size: int, number: int, causal: bool, library: Library
) -> None:
    q, k = floats(0, rows, heads * size), floats(1, positions, heads * size)
    v, bias = floats(2, positions, heads * value_size), floats(3, 8, heads)
    op = RelativeAttention(heads, 0.4, causal, relative_buckets(8, 10, not causal))
    types = [TensorType(x.shape) for x in (k, v)]
    own = relative_cases.fields(op, *types)
    p = library.structure("pf_relative_attention_f32_params", bias=bias, scale=0.4, **own)
    y = Guarded((rows, heads * value_size), np.float32)
    with library.scratch(4 * positions) as scratch:
        assert library.call("pf_relative_attention_f32", p, q, k, v, y.array, number, rows, scratch) == 0
    wide = [a.astype(np.float64) for a in (q, k, v, bias)]
    close(y.value, op.compute(*wide, np.int32(number)), 1e-5)


@pytest.mark.parametrize("number", [-1, 7, 8, FAR, -(2**31)])
def test_a_position_outside_is_refused(number: int, library: Library) -> None:
    case = next(c for c in relative_cases.relative_attention(True) if c.note.startswith("3x9"))
    low = case.lowered
    p = library.structure("pf_relative_attention", low, **relative_cases.fields(low.op, low.key, low.value))  # type: ignore[attr-defined]
    q, k, v, _ = case.activations
    y = Guarded(case.output.shape, np.int16)
    scratch = np.zeros(4096, np.uint8)
    assert library.call("pf_relative_attention_s16", p, q, k, v, y.array, number, 3, scratch) == -1
    with pytest.raises(IndexError, match="outside the cache of 9 entries"):
        low.execute(q, k, v, np.int64(number))


@pytest.mark.parametrize("number", [10, FAR, -1, -(2**31)])
def test_a_length_outside_is_kept_inside(number: int, library: Library) -> None:
    case = next(c for c in relative_cases.relative_attention(False) if c.note.startswith("3x9"))
    low = case.lowered
    p = library.structure("pf_relative_attention", low, **relative_cases.fields(low.op, low.key, low.value))  # type: ignore[attr-defined]
    q, k, v, _ = case.activations
    y = Guarded(case.output.shape, np.int16)
    assert library.call("pf_relative_attention_s16", p, q, k, v, y.array, number, 3, np.zeros(4096, np.uint8)) == 0
    np.testing.assert_array_equal(y.value, low.execute(q, k, v, np.int64(min(max(number, 0), 9))))


X, KEYS = of((2, 6), S16, 0.01), of((9, 6), S16, 0.01)
BIAS = Operand(TensorType((3, 2)), np.ones((3, 2), np.float32))
OP = RelativeAttention(2, 0.5, True, (2, 1, 0))


@pytest.mark.parametrize(
    ("message", "op", "types", "bias", "output"),
    [
        ("are int16", OP, (of((2, 6), S8, 0.01), KEYS, KEYS), BIAS, X),
        ("are int16", OP, (X, KEYS, KEYS), BIAS, of((2, 6), S8, 0.01)),
        ("a constant of real numbers", OP, (X, KEYS, KEYS), Operand(BIAS.type), X),
        ("65537 keys", OP, (X, of((65537, 6), S16, 0.01), of((65537, 6), S16, 0.01)), BIAS, X),
        ("would not fit 32 bits", OP, (X, KEYS, KEYS), Operand(BIAS.type, np.full((3, 2), 3e14, np.float32)), X),
        ("too far from that of the values", OP, (X, KEYS, KEYS), BIAS, of((2, 6), S16, 1e-16)),
        ("scores count upwards", RelativeAttention(2, -0.5, True, (0,)), (X, KEYS, KEYS), BIAS, X),
    ],
)
def test_types_that_do_not_fit(
    message: str, op: RelativeAttention, types: tuple[TensorType, ...], bias: Operand, output: TensorType
) -> None:
    with pytest.raises(LoweringError, match=message):
        op.lower([*map(Operand, types), bias, NUMBER], output)


@pytest.mark.parametrize(
    ("message", "shapes"),
    [
        ("do not go together", [(2, 6), (9, 8), (9, 8), (3, 2)]),
        ("do not go together", [(2, 6), (9, 6), (8, 6), (3, 2)]),
        ("do not go together", [(10, 6), (9, 6), (9, 6), (3, 2)]),
        ("is not of 3 buckets and 2 heads", [(2, 6), (9, 6), (9, 6), (2, 2)]),
        ("is not of 3 buckets and 2 heads", [(2, 6), (9, 6), (9, 6), (3, 3)]),
        ("do not make 2 heads", [(2, 6), (9, 6), (9, 5), (3, 2)]),
    ],
)
def test_shapes_that_do_not_fit(message: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=message):
        OP.infer([*map(TensorType, shapes), NUMBER.type])


@pytest.mark.parametrize(
    ("heads", "scale", "causal", "buckets"),
    [(0, 1.0, True, (0,)), (1, float("nan"), True, (0,)), (1, 1.0, True, ()), (1, 1.0, False, (0, 1)),
     (1, 1.0, True, (300,))],
)  # fmt: skip
def test_attributes_that_cannot_be(heads: int, scale: float, causal: bool, buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"heads|distances"):
        RelativeAttention(heads, scale, causal, buckets)
