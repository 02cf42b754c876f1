"""The kernels of a decode step for the DSP cores, in sizes around every turn of their loops."""

from __future__ import annotations

import numpy as np
import pytest

from arm_library import ArmLibrary
from c_library import execute
from decode_cases import NUMBER
from operator_cases import Case, of
from picoformer.ir.operator import Operand
from picoformer.ir.types import DType
from picoformer.ops import CachedAttention

S8, S16 = DType.INT8, DType.INT16

ATTENTIONS = [
    # positions, heads, heads of keys, head size, value size, position
    *((24, 2, 1, 8, 1 + seen % 5, seen) for seen in range(24)),
    *((200, 1, 1, 8, 3, seen) for seen in (158, 159, 160, 161, 162, 167, 168, 169, 199)),
    *((6, 2, 2, size, 4, 5) for size in (2, 4, 6, 7, 12, 16, 24, 40, 64, 120, 128, 136)),
    (7, 2, 1, 8, 3, 6),  # rows of values off words
    (6, 3, 3, 7, 5, 4),  # keys off words
    (64, 4, 2, 16, 16, 40),
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, arm_tools: None) -> ArmLibrary:
    return ArmLibrary(tmp_path_factory.mktemp("core"), ["dsp", "generic"])


def attention_case(
    rng: np.random.Generator, sizes: tuple[int, ...], types: tuple[DType, DType, DType], index: int
) -> Case:
    """Queries, keys and values at random or at the ends of what they may be, by `index`; values behind the last key
    seen are anything."""
    positions, heads, kv_heads, size, value_size, position = sizes
    keys, values, y = types
    bits = min(keys.bits, 13)
    limit = 1 << (bits - 1)

    def drawn(low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        return rng.choice([low, high - 1], shape) if index % 2 else rng.integers(low, high, shape)

    q = drawn(-32768, 32768, (1, heads * size)).astype(np.int16)
    k = drawn(-limit, limit, (positions, kv_heads * size)).astype(keys.numpy)
    v = drawn(values.minimum, values.maximum + 1, (kv_heads * value_size, positions)).astype(values.numpy)
    if index % 4 == 3:  # the largest score there is, beside the smallest
        q[:], k[0], k[position] = -32768, -limit, limit - 1
    reach = (6.0, 0.5, 2.0**26)[index % 3]  # the last takes a shift below 32
    fit = 2.0**-24 if index % 7 == 6 else 1.0  # so fine that a mean takes one of 32 or less
    steepest = 2.0**29 * reach / (32768 * limit * np.sqrt(size) * positions)
    slopes = tuple(float(s) for s in rng.choice([-1, 1, 0.3], heads) * steepest) if index % 5 == 4 else ()
    inputs = (
        Operand(of(q.shape, S16, np.sqrt(reach) / 32768)),
        Operand(of(k.shape, keys, np.sqrt(reach) / limit)),
        Operand(of(v.shape, values, 3.0 / -values.minimum)),
        NUMBER,
    )
    out = of((1, heads * value_size), y, fit * 3.0 / -y.minimum)
    op = CachedAttention(heads, kv_heads, 1.0 / np.sqrt(size), bits, slopes)
    return Case(f"{sizes} {index}", op, inputs, out, (q, k, v, np.int32(position)))


@pytest.mark.parametrize("types", [(S16, S16, S16), (S16, S16, S8), (S16, S8, S16)])
def test_cached_attention_of_every_small_size(types: tuple[DType, DType, DType], core: ArmLibrary) -> None:
    rng = np.random.default_rng(0)
    waiting, shifts = [], set()
    for number, sizes in enumerate(ATTENTIONS):
        for index in (*range(number % 3, 21, 3), 39):
            case = attention_case(rng, sizes, types, index)
            shifts.add(case.lowered.score_shift)
            waiting.append((case.note, execute(core, case.lowered, *case.activations)[1], case.expected))
            if core.is_full:
                core.run()
    core.run()
    assert 32 in shifts and min(shifts) < 32
    for note, result, expected in waiting:
        np.testing.assert_array_equal(result, expected, note)
