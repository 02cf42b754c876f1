"""Operators of a decode step say no, with the reason, to types and shapes that they cannot be bound to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from operator_case import S8, S16, of
from picoformer.ir.operator import LoweringError, Operand, Operator
from picoformer.ir.types import DType, TensorType
from picoformer.ops import CachedAttention, ExpertWeights, KvAppend, RmsNorm, Rope, ScaleRows, TakeRow, TopExperts
from picoformer.ops.rope import ROTATION_QUANT

NUMBER = TensorType((), DType.INT32)
X = of((2, 8), S16, 0.01)
TABLE = Operand(TensorType((9, 4), S16, ROTATION_QUANT), np.full((9, 4), 16384, np.int16))
LOWEST = Operand(TABLE.type, np.full((9, 4), -32768, np.int16))
IDS = TensorType((2, 2), DType.INT32)


def caches(positions: int, key: DType = S16, scale: float = 0.01) -> list[TensorType]:
    return [of((positions, 8), key, scale), of((8, positions), S16, 0.01), NUMBER]


REFUSED: list[tuple[str, Operator, Sequence[TensorType | Operand], TensorType]] = [
    ("not int16 on one grid", Rope(2, 4), [X, TABLE, NUMBER], of((2, 8), S16, 0.02)),
    ("not int16 on one grid", Rope(2, 4), [of((2, 8), S8, 0.01), TABLE, NUMBER], of((2, 8), S8, 0.01)),
    ("a rotation is -2", Rope(2, 4), [X, LOWEST, NUMBER], X),
    ("the rotations are not an int16 constant", Rope(2, 4), [X, TABLE.type, NUMBER], X),
    ("different grids", KvAppend(), [of((9, 8), S16, 0.01), X, NUMBER, NUMBER], of((9, 8), S16, 0.02)),
    ("not symmetric", KvAppend(), [of((9, 8), S8, 0.01, 3), X, NUMBER, NUMBER], of((9, 8), S8, 0.01, 3)),
    ("queries are int16", CachedAttention(2, 2, 0.5), [of((2, 8), S8, 0.01), *caches(9)], X),
    ("65537 keys", CachedAttention(2, 2, 0.5), [X, *caches(65537)], X),
    ("would not fit 32 bits", CachedAttention(1, 1, 0.5, 16, (1e6,)), [X, *caches(60000, scale=1e-4)], X),
    ("too far from that of the values", CachedAttention(2, 2, 0.5), [X, *caches(9)], of((2, 8), S16, 1e-16)),
    ("symmetric", CachedAttention(2, 2, 0.5), [X, *caches(9)], of((2, 8), S8, 0.01, 5)),
    ("steps of 2\\^-15", ExpertWeights(), [of((2, 4), S16, 0.1), IDS], of((2, 2), S16, 0.1)),
    ("not computed int16", ScaleRows(0), [X, of((2, 2), S8, 0.1)], X),
    ("plain int32", TopExperts(2), [of((2, 4), S16, 0.1)], of((2, 2), S16, 0.1)),
    ("too small for a norm", RmsNorm(1e-5), [X], of((2, 8), S16, 1e-8)),
    ("different grids", TakeRow(), [X, NUMBER], of((1, 8), S16, 0.02)),
]


@pytest.mark.parametrize("message,op,inputs,output", REFUSED)
def test_types_that_do_not_fit(
    message: str, op: Operator, inputs: Sequence[TensorType | Operand], output: TensorType
) -> None:
    operands = [x if isinstance(x, Operand) else Operand(x) for x in inputs]
    with pytest.raises(LoweringError, match=message):
        op.lower(operands, output)


SHAPES: list[tuple[str, Operator, list[tuple[int, ...]]]] = [
    ("does not make 3 heads", Rope(3, 4), [(2, 8), (9, 4), ()]),
    ("not a row of 4 numbers", Rope(2, 4), [(2, 8), (9, 6), ()]),
    ("the position is one int32", Rope(2, 4), [(2, 8), (9, 4), (1,)]),
    ("do not go into the cache", KvAppend(), [(9, 4), (2, 8), (), ()]),
    ("do not go into the cache", KvAppend(True), [(9, 8), (2, 8), (), ()]),
    ("do not go together", CachedAttention(2, 2, 1.0), [(2, 8), (9, 8), (8, 7), ()]),
    ("do not go together", CachedAttention(2, 2, 1.0), [(9, 8), (2, 8), (8, 2), ()]),
    ("do not make 2 heads", CachedAttention(2, 1, 1.0), [(2, 8), (9, 8), (8, 9), ()]),
    ("rows have 4 elements", TopExperts(5), [(2, 4)]),
    ("hold no slot 2", ScaleRows(2), [(2, 8), (2, 2)]),
]


@pytest.mark.parametrize("message,op,shapes", SHAPES)
def test_shapes_that_do_not_fit(message: str, op: Operator, shapes: list[tuple[int, ...]]) -> None:
    types = [TensorType(s, DType.INT32 if len(s) < 2 else DType.FLOAT32) for s in shapes]
    with pytest.raises(ValueError, match=message):
        op.infer(types)


def test_slopes_cost_queries_bits_where_nothing_else_fits() -> None:
    """A step of the score grows until the steepest slope over the whole cache fits beside the products."""
    drops = []
    for positions in (64, 4096, 65536):
        operands = [Operand(t) for t in (of((2, 8), S16, 1e-4), *caches(positions, scale=1e-4))]
        low = CachedAttention(2, 2, 0.5, 13, (0.5, 0.25)).lower(operands, X)
        drops.append(low.query_drop)
        most = int(np.abs(low.slope_multiplier).max()) * (positions - 1) >> 8  # type: ignore[union-attr]
        assert most < 1 << 30
    assert drops == sorted(drops) and drops[0] < drops[-1]
